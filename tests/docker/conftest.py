"""The stack of docker-compose.yml, really built and really run, as a project of its own beside any other."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PROJECT = "ranktower-test"
ASKED_FOR = "RANKTOWER_TEST_STACK"
OFFICIAL = ("nginx:1.28-alpine", "prom/prometheus:v3.5.0")
# Grafana has no stand-in, and what it is told is tested below tests/deploy/grafana.
SERVICES = ("secrets", "redis", "offline", "service", "proxy", "prometheus")
BODY = {"user_id": 1, "candidate_ids": [1000001, 1000002, 1000003, "nothing"]}


@dataclass(frozen=True)
class Stack:
    """A running stack."""

    environment: dict[str, str]
    proxy: str
    prometheus: str

    def compose(self, *arguments: str, env_file: str | None = None) -> str:
        """Run ``docker compose``; returns what it printed."""
        options = ["--env-file", env_file] if env_file else []
        return docker("compose", "--project-name", PROJECT, *options, *arguments, environment=self.environment)

    def start(self, env_file: str | None = None) -> None:
        """Bring up what the test can run; returns once the proxy has been started."""
        self.compose("up", "--detach", *SERVICES, env_file=env_file)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        (known,) = json.loads(docker("inspect", container))
        return dict(known)

    def score(self, **headers: str) -> httpx.Response:
        """One request through the proxy."""
        return httpx.post(f"{self.proxy}/v1/score", json=BODY, headers=headers, timeout=30)

    def type_in(self, page: Path, test: str, folder: Path) -> list[str]:
        """Run what the page says is run by ``test``, in a folder; returns what each line printed."""
        (block,) = re.findall(rf"::{test} -->\n```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        (folder / "docker").symlink_to(ROOT / "docker")
        environment = self.environment | {
            "COMPOSE_FILE": str(ROOT / "docker-compose.yml"),
            "COMPOSE_PROJECT_NAME": PROJECT,
            # The page's .env is that of the folder, and not that of whoever runs the tests.
            "COMPOSE_ENV_FILES": str(folder / ".env"),
        }
        (folder / ".env").touch()
        told = []
        for line in block.replace("http://127.0.0.1:8080", self.proxy).splitlines():
            options: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
            done = subprocess.run(line, shell=True, check=False, **options)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            told.append(done.stdout)
        return told

    def wait_until_healthy(self, container: str) -> None:
        """Return once the container's health check succeeds."""
        deadline = time.monotonic() + 120
        while self.inspect(container)["State"].get("Health", {}).get("Status") != "healthy":
            assert time.monotonic() < deadline, docker("logs", "--tail", "20", container)
            time.sleep(0.5)

    @contextmanager
    def load(self) -> Iterator[Outcomes]:
        """Four clients that ask one request after the other; yields what becomes of them, complete at the end."""
        outcomes, stop = Outcomes(), threading.Event()

        def ask() -> None:
            with httpx.Client(timeout=30) as client:
                while not stop.is_set():
                    outcomes.add(client)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        outcomes.proxy = self.proxy
        for client in clients:
            client.start()
        try:
            outcomes.wait_for(20)
            yield outcomes
            outcomes.wait_for(20)
        finally:
            stop.set()
            for client in clients:
                client.join()


@dataclass
class Outcomes:
    """Answers by what they are: ``200 PRESENT``, ``503 store_unavailable``, ``ReadError``."""

    seen: Counter[str] = field(default_factory=Counter)
    proxy: str = ""

    def add(self, client: httpx.Client) -> None:
        """Ask once."""
        try:
            answer = client.post(f"{self.proxy}/v1/score", json=BODY)
            told = answer.json()
            self.seen[f"{answer.status_code} {told.get('user') or told.get('error_type')}"] += 1
        except (httpx.TransportError, json.JSONDecodeError) as error:
            self.seen[type(error).__name__] += 1

    def wait_for(self, count: int, what: str = "200 PRESENT") -> None:
        """Return once there have been so many more of them."""
        deadline, before = time.monotonic() + 120, self.seen[what]
        while self.seen[what] < before + count:
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.02)


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run ``docker`` in the root of the repository; its errors are the assertion's text."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on."""
    with_sockets = [socket.socket() for _ in range(count)]
    try:
        for one in with_sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in with_sockets]
    finally:
        for one in with_sockets:
            one.close()


def why_not() -> str | None:
    """Why the stack is not run here, None where it is."""
    if os.environ.get(ASKED_FOR) != "1":
        return "takes minutes; make test-compose runs it"
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
        subprocess.run(["docker", "info"], check=True, capture_output=True)
    except FileNotFoundError:
        return "no docker command here"
    except subprocess.CalledProcessError as error:
        return f"no container engine with compose: {error.stderr.decode().strip()[-200:]}"
    return None


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Built, and started from nothing; all that was made of it but the images goes at the end."""
    if reason := why_not():
        pytest.skip(reason)
    for image in OFFICIAL:
        if subprocess.run(["docker", "image", "inspect", image], check=False, capture_output=True).returncode:
            pulled = subprocess.run(["docker", "pull", "--quiet", image], check=False, capture_output=True)
            if pulled.returncode:
                subprocess.run(["sh", str(Path(__file__).with_name("stand-ins.sh"))], check=True)
                break
    ports = free_ports(3)
    names = ("RANKTOWER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    environment = {**os.environ, **{name: str(port) for name, port in zip(names, ports, strict=True)}}
    # The machine runs the tests too: what is slow for want of a core is no failure of the store.
    environment["RANKTOWER_STORE__TIMEOUT_MS"] = "5000"
    running = Stack(environment, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
    running.compose("--profile", "*", "config", "--quiet")
    running.compose("build", "offline", "service")
    running.compose("down", "--volumes", "--timeout", "1")  # of a run that was killed
    try:
        running.start()
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--timeout", "1")
