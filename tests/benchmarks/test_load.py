"""Both generators against a real HTTP server, which stalls when it is told to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import load
import numpy as np
import pytest
from open_loop import make_schedule

BODIES = [b'{"number": %d}' % number for number in range(7)]
STALL_S = 0.4
# /stall blocks its event loop once, at the 40th request; /seen tells what was posted; /broken ends the process.
SERVER = f"""
import asyncio, json, os, socket, time, uvicorn

seen = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path, body = scope["path"], (await receive())["body"]
    if path == "/seen":
        answer = json.dumps(seen).encode()
        seen.clear()
    else:
        seen.append(body.decode())
        answer = b'{{"scores": []}}'
    if path == "/stall" and len(seen) == 40:
        time.sleep({STALL_S})
    if path == "/broken":
        os._exit(1)
    if path == "/silent":
        await asyncio.sleep(60)
    chunked = path == "/chunked"
    headers = [] if chunked else [(b"Content-Length", str(len(answer)).encode())]
    status = 503 if path == "/busy" else 200
    await send({{"type": "http.response.start", "status": status, "headers": headers}})
    await send({{"type": "http.response.body", "body": answer[:5], "more_body": True}})
    await send({{"type": "http.response.body", "body": answer[5:]}})

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).run(sockets=[listener])
"""
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian package wrk)")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def run(address: str, path: str, *, rate: float = 100.0, seconds: float = 1.0, connections: int = 4) -> load.OpenResult:
    cores = os.sched_getaffinity(0)
    return load.open_loop(address, BODIES, path=path, rate=rate, seconds=seconds, connections=connections, cores=cores)


@pytest.mark.parametrize("connections", [1, 64])
def test_a_stall_shows_in_every_request_that_was_due_in_it(address: str, connections: int) -> None:
    """200 a second for a second: 80 of the 200 are due while the server stands still, so two in five see it."""
    result = run(address, "/stall", rate=200.0, connections=connections)
    assert (result.requests, result.errors) == (200, 0)
    assert result.max_ms >= STALL_S * 1e3 * 0.9
    # The tenth slowest in a hundred was due a quarter into the stall. A generator that waits for its answers before it
    # sends on, and counts from there, has one slow request in 200 and a p99 below the stall.
    assert result.p90_ms >= STALL_S * 1e3 * 0.6


def test_bodies_are_sent_in_turn_at_the_rate_asked_for(address: str) -> None:
    result = run(address, "/score", rate=100.0, seconds=0.3, connections=1)
    assert (result.requests, result.errors) == (30, 0)
    assert result.offered_per_s == pytest.approx(100.0)
    assert result.achieved_per_s <= result.offered_per_s * 1.001
    wanted = [BODIES[number % len(BODIES)].decode() for number in range(30)]
    assert httpx.post(f"{address}/seen").json() == wanted


def test_answers_in_chunks_are_read_to_their_end(address: str) -> None:
    assert run(address, "/chunked", seconds=0.2).errors == 0


def test_a_bad_status_is_counted(address: str) -> None:
    result = run(address, "/busy", seconds=0.2)
    assert (result.requests, result.non_200, result.failed) == (20, 20, 0)


def test_requests_without_an_answer_count_with_their_wait(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ANSWER_TIMEOUT_S", 1)
    result = run(address, "/silent", rate=20.0, seconds=0.5, connections=2)
    assert (result.requests, result.failed, result.achieved_per_s) == (10, 10, 0.0)
    assert result.p50_ms >= 1000


def test_a_server_that_ends_fails_the_rest_of_the_requests(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ANSWER_TIMEOUT_S", 1)
    assert run(address, "/broken", rate=20.0, seconds=0.5).failed == 10


def test_nobody_listening_is_one_message() -> None:
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1:1: .*[Cc]onnection refused"):
        run("http://127.0.0.1:1", "/score")


def test_a_body_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="bodies: needs at least one, and none with a line break"):
        load.open_loop("http://127.0.0.1:1", [b"{\n}"], rate=1, seconds=1, connections=1, cores={0})


def test_even_and_random_schedules() -> None:
    assert make_schedule(4.0, 1.0, None).tolist() == [0.0, 0.25, 0.5, 0.75]
    random = make_schedule(100.0, 100.0, 3)
    gaps = np.diff(random)
    # Exponential gaps: their mean and their deviation are both 1 / rate.
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)
    assert (make_schedule(100.0, 100.0, 3) == random).all()


@needs_wrk
def test_the_closed_loop_sends_the_bodies_in_turn(address: str) -> None:
    result = load.closed_loop(address, BODIES, path="/score", connections=1, seconds=1, cores=os.sched_getaffinity(0))
    seen = httpx.post(f"{address}/seen").json()
    assert result.errors == 0
    assert result.requests_per_s > 0
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    # wrk asks for a first request before the run and does not send it.
    first = BODIES.index(seen[0].encode())
    assert seen[:20] == [BODIES[(first + number) % len(BODIES)].decode() for number in range(20)]


@needs_wrk
def test_the_closed_loop_counts_bad_answers(address: str) -> None:
    result = load.closed_loop(address, BODIES, path="/busy", connections=2, seconds=1, cores=os.sched_getaffinity(0))
    assert result.errors == result.non_2xx > 0


def test_without_wrk_the_message_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="wrk is not on the PATH; it is in the Debian package wrk"):
        load.closed_loop("http://127.0.0.1:1", BODIES, connections=1, seconds=1, cores={0})
