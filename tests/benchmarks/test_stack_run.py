"""The run through a stack: two real services with their users in a real Redis, behind a real nginx."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stack_run
from redis_run import fill_redis, free_port
from reference_release import MODEL, build_reference_release
from service_run import Release
from stack_page import draw_stack_run
from stack_page import stack_run as page
from stack_run import Plan, Traffic, find_rate, measure

SMALL = ("--candidates", "30", "--max-candidates", "60", "--budgets-ms", "none=1")
_TIMEOUT_S = 60.0
_NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    client_body_buffer_size 4m;
    upstream replicas {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""


class LocalStack:
    """Processes in place of containers; a replica is named by its port."""

    def __init__(self, release: Release, redis: Any, folder: Path) -> None:
        self._release, self._redis, self._folder = release, redis, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._replicas = [str(free_port()) for _ in range(2)]
        for replica in self._replicas:
            self.revive(replica)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        servers = " ".join(f"server 127.0.0.1:{replica} max_fails=0;" for replica in self._replicas)
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, servers=servers, port=port))
        command = ["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
        self._nginx = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def replicas(self) -> list[str]:
        return self._replicas

    def kill(self, replica: str) -> None:
        self._running[replica].kill()
        self._running[replica].wait()

    def revive(self, replica: str) -> None:
        command = [sys.executable, "-m", "ranktower.cli", "serve", "--registry", str(self._release.root)]
        command += ["--model", MODEL, "--port", replica]
        env = {"RANKTOWER_STORE__USERS": "redis", "RANKTOWER_STORE__REDIS_URL": self._redis.url}
        env["RANKTOWER_STORE__TIMEOUT_MS"] = "5000"  # on a busy machine the usual 50 are failures of their own
        with (self._folder / f"{replica}.log").open("ab") as log:
            self._running[replica] = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)

    def restart_redis(self) -> None:
        self._redis.stop()
        self._redis.start()

    def is_ready(self, replica: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{replica}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not all(map(self.is_ready, self._replicas)):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        for process in (self._nginx, *self._running.values()):
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("release")
    return Release(root, build_reference_release(root, num_users=300, num_items=500))


@pytest.fixture(scope="module")
def stack(
    release: Release, start_redis: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    redis = start_redis("--appendonly", "yes", "--appendfsync", "always")
    fill_redis(release, redis.url)
    started = LocalStack(release, redis, tmp_path_factory.mktemp("stack"))
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


def test_a_run_with_a_killed_replica_and_a_restarted_redis(stack: LocalStack, release: Release, tmp_path: Path) -> None:
    plan = Plan(20, seconds=25, kill_at_s=4, revive_after_s=1, restart_redis_at_s=19, window_s=2.0)
    result = measure(stack, Traffic(release.root, MODEL, SMALL), plan)
    assert result["killed"]["at_s"] >= 4
    assert result["killed"]["revived_by"] == "this script"
    assert result["redis_restarted"]["at_s"] >= 19
    # On a busy machine the replica may be back only when Redis is restarted.
    assert set(result["phases"]) >= {"both replicas", "one replica", "Redis restarts"}
    whole, before = result["whole"], result["phases"]["both replicas"]
    assert whole["requests"] > before["requests"] > 0
    assert before["failed"] == 0
    assert whole["failed"] == sum(whole["errors"].values())
    assert sum(of["requests"] for of in result["windows"]) <= whole["requests"]
    assert [of["start_s"] for of in result["windows"][:3]] == [0.0, 2.0, 4.0]
    place = {"date": "2026-01-02", "command": "python benchmarks/stack_run.py"}
    machine = {"machine": {"cpu": "a processor", "num_cores": 2}}
    told = page(result | place | machine | {"is_rate_searched": False})
    assert "20 requests/s, for 25 s" in told
    assert "started again by the benchmark" in told
    draw_stack_run(result, tmp_path / "stack_run.svg")
    assert (tmp_path / "stack_run.svg").read_text(encoding="utf-8").count("replica killed") == 1


def test_the_rate_is_half_of_the_last_that_was_held(
    stack: LocalStack, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 and 20 are held, 40 is made not to be, by a threshold that locust itself finds broken."""
    stack.wait_ready()
    asked: list[int] = []
    command = Traffic.command

    def told(self: Traffic, address: str, *, rate: int, seconds: int) -> list[str]:
        asked.append(rate)
        broken = ["--mix", "bad=1", "--too-many", "1"] if rate == 40 else ["--mix", "score=1"]
        return command(self, address, rate=rate, seconds=seconds) + broken

    monkeypatch.setattr(Traffic, "command", told)
    monkeypatch.setattr(stack_run, "_SEARCH_S", 3)
    monkeypatch.setattr(stack_run, "_HELD", ("--max-failures", "0.001"))
    assert find_rate(stack, Traffic(release.root, MODEL, SMALL)) == 10
    assert asked == [10, 20, 40]


def test_without_an_engine_nothing_is_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, stack_run.__file__], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "stack_run: no container engine is reachable, nothing is measured\n"
