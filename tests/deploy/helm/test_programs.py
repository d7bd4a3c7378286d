"""What the chart tells the programs, told to the programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from offline import delta, gc, pipeline
from service import keys_command, serve
from service.settings import ENV_PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[3]


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The variables; one out of a secret gets a stand-in."""
    return {one["name"]: one.get("value", "redis://:secret@redis:6379") for one in container["env"]}


@pytest.fixture
def settings(rendered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the service in the pod has them."""
    container = rendered.container()
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    (config,) = (one for one in rendered.all("ConfigMap") if "config.yaml" in one["data"])
    (tmp_path / "config.yaml").write_text(config["data"]["config.yaml"])
    if any(one["name"] == "redis-secret" for one in container["volumeMounts"]):
        secret = tmp_path / "password"
        secret.write_text("a password")
        monkeypatch.setenv(f"{ENV_PREFIX}STORE__REDIS_PASSWORD_FILE", str(secret))
    command, *arguments = container["args"]
    assert command == "serve"
    options = serve._parser().parse_args(arguments)
    assert str(options.config) == "/etc/ranktower/config.yaml"
    return load_settings({}, tmp_path / options.config.name)


def test_a_service_starts_as_in_the_pod_and_answers_its_probes(
    render: Callable[..., Any], build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    """A real one, with keys; only its folders are others."""
    rendered = render({"drain": {"delaySeconds": 0}})
    root = tmp_path / "registry"
    build_release(root).promote()
    keys_file = tmp_path / "keys.yaml"
    keys_command.main(["create", "--file", str(keys_file), "--name", "test"])
    variables = environment(rendered.container()) | {f"{ENV_PREFIX}AUTH__KEYS_FILE": str(keys_file)}
    (tmp_path / "config.yaml").write_text(rendered.one("ConfigMap")["data"]["config.yaml"])
    options = ["--config", str(tmp_path / "config.yaml")]
    server = start_server(root, *options, **{key.removeprefix(ENV_PREFIX): value for key, value in variables.items()})
    server.wait_ready()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert server.client.get(rendered.container()[probe]["httpGet"]["path"]).status_code == 200
    assert server.score("user-1", [1]).status_code == 401
    assert server.stop() == 0


def test_the_service_takes_its_settings(rendered: Any, settings: Settings) -> None:
    values = rendered.values
    for section, keys in values["config"].items():
        for key, value in keys.items():
            assert getattr(getattr(settings, section), key) == value
    assert settings.release.registry == Path("/registry")
    assert settings.release.model == values["model"]
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8000)
    assert settings.http.drain_delay_s == values["drain"]["delaySeconds"]
    assert settings.http.drain_timeout_s == values["drain"]["timeoutSeconds"]
    assert settings.auth.required is values["auth"]["required"]
    keys_file = Path("/run/secrets/keys/keys.yaml") if values["auth"]["required"] else None
    assert settings.auth.keys_file == keys_file
    if settings.needs_redis:
        assert settings.store.redis_cluster is values["redis"]["cluster"]


def test_files_that_the_settings_name_are_mounted(rendered: Any) -> None:
    for pod in rendered.pods():
        (container,) = pod["spec"]["containers"]
        mounts = [one["mountPath"] for one in container["volumeMounts"]]
        paths = [value for value in [*environment(container).values(), *container["args"]] if value.startswith("/")]
        assert all(any(path == mount or path.startswith(f"{mount}/") for mount in mounts) for path in paths)


def test_no_secret_stands_in_an_object(render: Any) -> None:
    values = {
        "config": {"store": {"users": "redis"}},
        "redis": {"existingSecret": "redis", "urlKey": "url"},
        "offline": {"enabled": True},
    }
    for pod in render(values).pods():
        (container,) = pod["spec"]["containers"]
        (url,) = (one for one in container["env"] if one["name"] == f"{ENV_PREFIX}STORE__REDIS_URL")
        assert url["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "url"}}


def test_probes_ask_for_what_the_service_has(rendered: Any) -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert rendered.container()[probe]["httpGet"]["path"] in paths
    for prefix in rendered.values["publicPaths"]:
        assert any(path.startswith(f"{prefix}/") for path in paths)


def test_the_jobs_commands_are_commands(rendered: Any) -> None:
    parsers = {"pipeline": pipeline._parser, "gc": gc._parser, "deltas": delta._parser}
    first_words = {"pipeline": ["pipeline"], "gc": ["gc"], "deltas": ["precompute", "--delta"]}
    for job in rendered.all("CronJob"):
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        name = job["metadata"]["name"].rpartition("-")[2]
        (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        words = first_words[name]
        assert container["args"][: len(words)] == words
        options = parsers[name]().parse_args(container["args"][len(words) :])
        assert options.registry == Path("/registry")
        assert options.model == rendered.values["model"]
        needs_redis = any(one["name"] == f"{ENV_PREFIX}STORE__REDIS_URL" for one in container["env"])
        assert options.store == ("redis" if needs_redis else "local")
    expected = {"films-ranktower-gc", "films-ranktower-pipeline"} if rendered.values["offline"]["enabled"] else set()
    assert {one["metadata"]["name"] for one in rendered.all("CronJob")} >= expected


def test_the_jobs_read_what_the_values_say(everything: Any) -> None:
    jobs = {one["metadata"]["name"].rpartition("-")[2]: one for one in everything.all("CronJob")}
    pods = {name: one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for name, one in jobs.items()}
    arguments = {name: pod["containers"][0]["args"] for name, pod in pods.items()}
    training = pipeline._parser().parse_args(arguments["pipeline"][1:])
    assert training.data == Path("/data/films/today")
    (train,) = (one for one in everything.all("ConfigMap") if "train.yaml" in one["data"])
    assert yaml.safe_load(train["data"]["train.yaml"]) == {"max_epochs": 3}
    assert training.config == Path("/etc/ranktower/train.yaml")
    rows = delta._parser().parse_args(arguments["deltas"][2:])
    assert (rows.items, rows.users) == (Path("/data/changed_items.parquet"), Path("/data/changed_users.parquet"))
    assert (training.delta_items, training.delta_users) == (rows.items, rows.users)
    # Its work may be mountable on one node alone, and the others must not wait for it.
    assert [name for name, pod in pods.items() if any(one["name"] == "work" for one in pod["volumes"])] == ["pipeline"]
