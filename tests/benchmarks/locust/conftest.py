"""Locust as a process, a real service for it, and a server that answers as a test says."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from reference_release import MODEL, build_reference_release, serving

LOCUSTFILE = Path(__file__).parents[3] / "benchmarks" / "locust" / "locustfile.py"
# Small enough for a machine that has other things to do.
LOAD = ("--users", "20", "--spawn-rate", "20", "--run-time", "4s")
CANDIDATES = ("--candidates", "30", "--max-candidates", "60", "--budgets-ms", "none=1")


class Locust:
    """Runs it against an address, as nobody does who has a terminal."""

    def __init__(self, registry: Path) -> None:
        self._ids = ["--registry", str(registry), "--model", MODEL]

    def command(self, *options: str) -> list[str]:
        """Later options win."""
        return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *self._ids, *CANDIDATES, *options]

    def __call__(
        self, address: str, *options: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Headless, to its end."""
        command = self.command("--headless", "--only-summary", "--host", address, *LOAD, *options)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKTOWER_")}
        environment |= dict(env or {})
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    build_reference_release(root, num_users=300, num_items=500, string_ids=True)
    return root


@pytest.fixture(scope="session")
def address(registry: Path) -> Iterator[str]:
    with serving(registry, {}) as address:
        yield address


@pytest.fixture(scope="session")
def locust(registry: Path) -> Locust:
    return Locust(registry)


@pytest.fixture
def answering() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts servers; each gets a function of the number of a request and of what writes its answer."""
    started: list[ScriptedServer] = []

    def start(answer: Callable[[int, Callable[[bytes], Any]], None]) -> ScriptedServer:
        started.append(ScriptedServer(answer))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


class ScriptedServer(socketserver.ThreadingTCPServer):
    """Reads whole requests, counts them and answers as it is told."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, answer: Callable[[int, Callable[[bytes], Any]], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer = answer
        self.paths: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, path: str) -> int:
        """One more request; its number, from 1 on."""
        with self._lock:
            self.paths.append(path)
            return len(self.paths)


class _Connection(socketserver.StreamRequestHandler):
    server: ScriptedServer

    def handle(self) -> None:
        while head := self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.rfile.read(length)
            self.server.answer(self.server.count(head.decode().split()[1]), self.wfile.write)
