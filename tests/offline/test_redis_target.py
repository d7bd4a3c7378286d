"""Where the offline commands take Redis's address and password from."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline.redis_target import add_redis_options, redis_options
from ranktower.embedding_store.redis_client import RedisOptions, open_sync_client
from ranktower.errors import ConfigError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("REDIS_URL", "REDIS_PASSWORD_FILE", "REDIS_CLUSTER"):
        monkeypatch.delenv(f"RANKTOWER_STORE__{key}", raising=False)


def options_of(*arguments: str) -> RedisOptions | None:
    parser = argparse.ArgumentParser()
    add_redis_options(parser)
    return redis_options(parser.parse_args(arguments))


def test_the_password_of_a_file_opens_a_locked_redis(
    start_redis: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret word\n")
    server = start_redis("--requirepass", "s3cret word")
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", server.url)
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_PASSWORD_FILE", str(file))
    options = options_of("--store", "redis")
    assert options is not None
    assert "s3cret" not in repr(options)
    assert open_sync_client(options).ping()


def test_a_password_file_without_a_password_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", "redis://host")
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"REDIS_PASSWORD_FILE: .*none: cannot be read: No such file"):
        options_of("--store", "redis")


@pytest.mark.parametrize(("value", "cluster"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_the_environment_may_name_a_cluster(monkeypatch: pytest.MonkeyPatch, value: str, cluster: bool) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", "redis://host")
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_CLUSTER", value)
    options = options_of("--store", "redis")
    assert options is not None
    assert options.cluster is cluster


def test_nothing_is_read_where_redis_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_PASSWORD_FILE", "/nowhere")
    assert options_of() is None
