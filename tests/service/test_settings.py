"""Where settings come from, which wins, and what a wrong one is told."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from ranktower.errors import ConfigError
from service.settings import Settings, load_settings

REQUIRED: dict[str, Any] = {"release": {"registry": "/r", "model": "m"}}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("RANKTOWER_")]:
        monkeypatch.delenv(key)


def test_the_defaults() -> None:
    settings = load_settings(REQUIRED)
    assert settings.release.registry == Path("/r")
    assert (settings.http.host, settings.http.port, settings.http.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.store.users, settings.store.items) == ("local", "local")
    assert settings.limits.max_candidates == 10_000
    assert settings.auth.api_key is None
    assert not settings.needs_redis


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("http: {port: 1, workers: 2, host: file}\nrelease: {registry: /file, model: file}\n")
    monkeypatch.setenv("RANKTOWER_HTTP__PORT", "3")
    monkeypatch.setenv("RANKTOWER_HTTP__WORKERS", "4")
    monkeypatch.setenv("RANKTOWER_RELEASE__MODEL", "environment")
    settings = load_settings({"http": {"port": 5}}, file)
    assert (settings.http.port, settings.http.workers, settings.http.host) == (5, 4, "file")
    assert (settings.release.registry, settings.release.model) == (Path("/file"), "environment")


def test_every_key_can_be_set_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert model is not None
        for key in model.model_fields:
            monkeypatch.setenv(f"RANKTOWER_{section}__{key}".upper(), "no such value")
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    for key in ("http.port", "store.users", "limits.max_candidates", "budget.reserve_ms", "log.level"):
        assert f"{key}: " in str(caught.value)
    assert "no such value" in str(caught.value)


def test_other_variables_of_the_project_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKTOWER_DATA_DIR", "/data")
    load_settings(REQUIRED)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({}, "release: not set (give --registry and --model)"),
        ({"release": {"registry": "/r"}}, "release.model: not set (set RANKTOWER_RELEASE__MODEL)"),
        (REQUIRED | {"http": {"prot": 1}}, "http.prot: unknown key"),
        (REQUIRED | {"htpp": {"port": 1}}, "htpp: unknown key"),
        (REQUIRED | {"http": {"port": -1}}, "http.port: Input should be greater than or equal to 0, got -1"),
        (REQUIRED | {"store": {"users": "mysql"}}, "store.users: Input should be 'local' or 'redis', got 'mysql'"),
        (REQUIRED | {"budget": {"max_ms": float("inf")}}, "budget.max_ms: "),
        (REQUIRED | {"limits": {"max_candidates": 0}}, "limits.max_candidates: "),
        (REQUIRED | {"store": {"users": "redis"}}, "store.redis_url: not set (set RANKTOWER_STORE__REDIS_URL)"),
        (REQUIRED | {"store": {"items": "local+redis"}}, "store.redis_url: not set"),
        ({"release": REQUIRED["release"] | {"pointer": "redis"}}, "store.redis_url: not set"),
    ],
)
def test_a_wrong_setting_names_key_and_value(overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "secret"),
    [
        ({"AUTH__API_KEY": "short"}, "short"),
        ({"STORE__REDIS_URL": "mysql://:hunter2@host", "STORE__USERS": "redis"}, "hunter2"),
    ],
)
def test_a_wrong_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], secret: str) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(f"RANKTOWER_{key}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings(REQUIRED)
    assert secret not in str(caught.value).replace("should have at least", "")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("auth: {api_key: 0123456789abcdef}", "auth.api_key is a secret and may only come from the environment"),
        ("store: {redis_url: 'redis://:word@host/0'}", "store.redis_url with a password is a secret"),
        ("http: 8000", "must be a mapping of sections"),
        ("[1, 2]", "must be a mapping of sections"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(REQUIRED, file)
    assert str(file) in str(caught.value)
    assert text in str(caught.value)
    assert "word@" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none.yaml: cannot be read: .*No such file"):
        load_settings(REQUIRED, tmp_path / "none.yaml")


def test_an_empty_file_and_a_url_without_password_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("")
    load_settings(REQUIRED, file)
    file.write_text("store: {redis_url: 'redis://host/0', users: redis}")
    assert load_settings(REQUIRED, file).store.redis_options().address == "host:6379"


def test_constructing_reads_no_environment_and_nothing_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKTOWER_HTTP__PORT", "9")
    settings = Settings(**REQUIRED)
    assert settings.http.port == 8000
    with pytest.raises(ValueError, match="frozen"):
        settings.http = settings.http  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.http.port = 9  # type: ignore[misc]


def test_a_worker_gets_the_same_settings() -> None:
    """Spawned workers receive them pickled."""
    settings = load_settings(REQUIRED | {"auth": {"api_key": "0123456789abcdef"}})
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301
    assert "0123456789abcdef" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "content", "text"),
    [
        ("redis://host", None, "store.redis_password_file: {file}: cannot be read: No such file or directory"),
        ("redis://host", b"\n", "store.redis_password_file: {file}: is empty"),
        ("redis://host", b"\xff", "store.redis_password_file: {file}: cannot be read: not UTF-8"),
        ("redis://:word@host", b"word", "store.redis_url: store url: has a password, and there is a password file"),
    ],
)
def test_a_password_file_that_is_none_or_one_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, content: bytes | None, text: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("RANKTOWER_STORE__USERS", "redis")
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", url)
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_PASSWORD_FILE", str(file))
    with pytest.raises(ConfigError) as caught:
        load_settings(REQUIRED)
    assert text.format(file=file) in str(caught.value)
    assert "word@" not in str(caught.value)
