"""Both generators against a real HTTP server. What the open loop does in detail: ``tests/offline/bench``."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import load
import pytest

BODIES = [b'{"number": %d}' % number for number in range(7)]
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian package wrk)")


class Server(ThreadingHTTPServer):
    """Answers every POST with 200, below /busy with 503, and keeps the bodies in ``seen``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[bytes] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.server.seen.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(503 if self.path == "/busy" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("rate", [100.0, load.PoissonRate(100.0, seed=1)])
def test_the_open_loop_sends_the_bodies_in_turn(server: Server, rate: float | load.PoissonRate) -> None:
    cores = os.sched_getaffinity(0)
    result = load.open_loop(server.address, BODIES, path="/score", rate=rate, seconds=0.2, connections=1, cores=cores)
    assert (result.requests, result.inside, result.errors) == (20, 20, 0)
    assert server.seen == [BODIES[number % len(BODIES)] for number in range(20)]
    found = load.figures(result)
    assert (found["offered_per_s"], found["non_200"], found["failed"]) == (100.0, 0, 0)


@needs_wrk
def test_the_closed_loop_sends_the_bodies_in_turn(server: Server) -> None:
    result = load.closed_loop(
        server.address, BODIES, path="/score", connections=1, seconds=1, cores=os.sched_getaffinity(0)
    )
    assert result.errors == 0
    assert result.requests_per_s > 0
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    # wrk asks for a first request before the run and does not send it.
    first = BODIES.index(server.seen[0])
    assert server.seen[:20] == [BODIES[(first + number) % len(BODIES)] for number in range(20)]


@needs_wrk
def test_the_closed_loop_counts_bad_answers(server: Server) -> None:
    result = load.closed_loop(
        server.address, BODIES, path="/busy", connections=2, seconds=1, cores=os.sched_getaffinity(0)
    )
    assert result.errors == result.non_2xx > 0


def test_without_wrk_the_message_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="wrk is not on the PATH; it is in the Debian package wrk"):
        load.closed_loop("http://127.0.0.1:1", BODIES, connections=1, seconds=1, cores={0})


def test_a_body_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="bodies: needs at least one, and none with a line break"):
        load.closed_loop("http://127.0.0.1:1", [b"{\n}"], connections=1, seconds=1, cores={0})
