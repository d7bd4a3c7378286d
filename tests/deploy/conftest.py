"""A real Prometheus with this repository's rules, and a real service with two workers that it watches under load."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import polars as pl
import pytest
import yaml

from ranktower.pointer import Variation
from ranktower.registry import Registry
from service.keys_command import main as keys_command

TESTS = Path(__file__).parents[1]
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
CANDIDATES = list(range(300))
# As Kubernetes' discovery adds them.
INSTALLATION = {"namespace": "ranking", "service": "films"}
# By name, with their rates.
KEYS: dict[str, tuple[str, ...]] = {"shop": (), "greedy": ("--rate-per-s", "1", "--burst", "1")}


def _load(path: Path) -> ModuleType:
    """A file of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_service = _load(TESTS / "service" / "conftest.py")
blueprint, build_release, start_server = _service.blueprint, _service.build_release, _service.start_server


class Prometheus:
    """One prometheus process; its storage goes with the test session."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.client = httpx.Client(base_url=f"http://{address}", timeout=30)
        self.began = time.time()
        # The same rules, evaluated every second instead of every minute or so.
        rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses, "labels": INSTALLATION}]}
                for job, addresses in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address={address}"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression from the beginning until now."""
        parameters = {"query": expr, "start": self.began, "end": time.time(), "step": "1s"}
        answer = self.client.post("/api/v1/query_range", data=parameters).json()
        assert answer["status"] == "success", (expr, answer)
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    def wait_for(self, expr: str) -> None:
        """Until an expression has a value."""
        self._wait_until(lambda: bool(self.query(expr)), f"value of {expr}")

    def wait_ready(self) -> None:
        """Until it answers queries."""

        def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self.client.get("/-/ready").status_code == 200
            return False

        self._wait_until(is_ready, "answer")

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, "prometheus ended"
            assert time.monotonic() < deadline, f"no {what}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def start_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Prometheus]]:
    """``start_prometheus(ranktower=["127.0.0.1:8000"])`` scrapes the targets of each job; all end with the session."""
    started: list[Prometheus] = []

    def start(**targets: list[str]) -> Prometheus:
        started.append(Prometheus(tmp_path_factory.mktemp("prometheus"), targets))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def watched(
    build_release: Callable[..., Any],
    start_server: Callable[..., Any],
    start_redis: Callable[..., Any],
    start_prometheus: Callable[..., Prometheus],
    tmp_path_factory: pytest.TempPathFactory,
) -> Prometheus:
    """Has watched a service through everything that the rules and the dashboard ask for."""
    root = tmp_path_factory.mktemp("watched")
    current, canary, shadow = (build_release(root, seed=seed) for seed in (1, 2, 3))
    redis = start_redis()
    for release in (current, canary, shadow):
        release.write_to_redis(redis.url)
    current.promote()
    Registry(root).vary("demo", "canary", Variation(release=canary.release, share=0.3))
    Registry(root).vary("demo", "shadow", Variation(release=shadow.release, share=1.0))
    keys = {name: _create_key(root / "keys.yaml", name, *rate) for name, rate in KEYS.items()}
    settings = {"STORE__USERS": "redis", "STORE__REDIS_URL": redis.url, "OVERLOAD__MAX_WAITING": "2"}
    server = start_server(root, "--workers", "2", AUTH__KEYS_FILE=str(root / "keys.yaml"), **settings)
    server.wait_ready(current.release)
    prometheus = start_prometheus(ranktower=[server.url.removeprefix("http://")])
    prometheus.wait_for("ranktower_answers_total")
    _deliver(root, tmp_path_factory.mktemp("delta"), redis.url)
    _load_it(server.url, keys)
    _refuse_something(Registry(root))
    redis.stop()
    server.client.headers["x-api-key"] = keys["shop"]
    for number in range(10):
        server.score(f"user-{number}", CANDIDATES)
    (root / "keys.yaml").write_text("keys: broken")
    # The rates of the recording rules, then the rules that sum them up.
    prometheus.wait_for('ALERTS{alertname="RankTowerReleaseRefused"}')
    prometheus.wait_for("job:ranktower_store_errors:ratio_rate5m > 0")
    prometheus.wait_for("job:ranktower_unanswered:ratio_rate3d > 0")
    return prometheus


def _deliver(root: Path, folder: Path, redis_url: str) -> None:
    """A delta of one new item."""
    items = {"item_id": ["brand-new"], "shelf": [3], "price": [1.5], "genres": [["x"]]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    command = [str(Path(sys.executable).with_name("ranktower")), "precompute", "--delta", "--model", "demo"]
    command += ["--registry", str(root), "--store", "redis", "--items", str(folder / "items.parquet")]
    subprocess.run(command, check=True, env=os.environ | {"RANKTOWER_STORE__REDIS_URL": redis_url})


def _create_key(file: Path, name: str, *options: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert keys_command(["create", "--file", str(file), "--name", name, *options]) == 0
    return printed.getvalue().strip()


def _load_it(url: str, keys: Mapping[str, str], seconds: float = 12.0) -> None:
    """Requests of all sorts: in time, hurried, too many at once, of strangers, for strange items, wrong ones."""
    bodies: list[dict[str, Any]] = [
        {"user_id": "user-1", "candidate_ids": CANDIDATES, "budget_ms": 500},
        {"user_id": "user-2", "candidate_ids": CANDIDATES * 8, "budget_ms": 8},
        {"user_id": "user-3", "candidate_ids": [*CANDIDATES, "unknown"]},
        {"user_id": "stranger", "candidate_ids": CANDIDATES, "user_features": {"country": "fr"}},
        {"user_id": "nobody", "candidate_ids": CANDIDATES, "budget_ms": 200},
        {
            "user_id": "user-4",
            "candidate_ids": [1, "new"],
            "item_features": {"new": {"shelf": 3, "price": 1.5, "genres": ["x"]}},
        },
        {"user_id": "user-5"},
    ]
    until = time.monotonic() + seconds

    def ask(number: int) -> None:
        headers = {"x-ranktower-priority": "low"} if number % 4 == 3 else {}
        headers |= {"x-api-key": keys["greedy" if number == 11 else "shop"]} if number < 12 else {}
        with httpx.Client(base_url=url, timeout=30, headers=headers) as client:
            while time.monotonic() < until:
                for body in bodies[number % 2 :] + bodies[: number % 2]:
                    client.post("/v1/score" if number % 2 else "/v1/rank", json=body)
                client.post("/v1/rank", json={"user_id": "user-6", "num_candidates": 50, "budget_ms": 100})
                if number == 0:
                    time.sleep(0.05)  # the shadow wants a moment of its own

    with ThreadPoolExecutor(13) as pool:
        # Alone at first, then more than there is room for.
        ask_alone, _ = pool.submit(ask, 0), time.sleep(seconds / 3)
        list(pool.map(ask, range(1, 13)))
        ask_alone.result()


def _refuse_something(registry: Registry) -> None:
    """A shadow that nobody has published, past the commands' own check."""
    pointer = registry.current("demo")
    assert pointer is not None
    unknown = Variation(release="20260101T000000Z-ffffffff", share=1.0)
    registry.write_pointer("demo", pointer.varied("shadow", unknown))
