"""The open loop against a real HTTP server, which stalls, refuses, degrades and ends when it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from offline.bench import offer as offering
from offline.bench.answers import Answers, OpenResult
from offline.bench.offer import Endpoint, Phase, offer
from ranktower.errors import RankTowerError

BODIES = [b'{"number": %d}' % number for number in range(7)]
STALL_S = 0.4
# /seen tells what was posted or, with /headers, with which headers; /status/429,200 answers with one after the other.
SERVER = f"""
import asyncio, itertools, json, os, socket, time, uvicorn

seen, counts = [], itertools.count()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path, body = scope["path"], (await receive())["body"]
    status, answer = 200, b'{{"release":"r-1","scores":[],"degraded":null}}'
    if path == "/seen":
        answer = json.dumps(seen).encode()
    else:
        seen.append(body.decode())
    if path == "/headers":
        seen[-1] = {{name.decode(): value.decode() for name, value in scope["headers"]}}
    if path == "/stall" and len(seen) == 40:
        time.sleep({STALL_S})
    if path == "/broken":
        os._exit(1)
    if path == "/silent":
        await asyncio.sleep(60)
    if path.startswith("/status/"):
        statuses = path.removeprefix("/status/").split(",")
        status = int(statuses[next(counts) % len(statuses)])
    if path == "/half":
        number = next(counts)
        level = b'{{"level":"pooled"}}' if number % 2 else b"null"
        # An id may look like the field: in JSON its quotation marks stand behind a backslash.
        answer = b'{{"release":"r-%d","items":[{{"id":"\\\\"degraded\\\\":{{"}}],"degraded":%s}}' % (number % 2, level)
    chunked = path == "/chunked"
    headers = [] if chunked else [(b"Content-Length", str(len(answer)).encode())]
    await send({{"type": "http.response.start", "status": status, "headers": headers}})
    await send({{"type": "http.response.body", "body": answer[:5], "more_body": True}})
    await send({{"type": "http.response.body", "body": answer[5:]}})

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off")).run(sockets=[listener])
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def run(
    address: str, path: str, *phases: Phase, connections: int = 4, headers: Mapping[str, str] | None = None
) -> Answers:
    endpoint = Endpoint("127.0.0.1", urlsplit(address).port or 0, path, headers or {})
    return offer(endpoint, BODIES, phases or (Phase(100.0, 0.2),), connections=connections)


@pytest.mark.parametrize("connections", [1, 64])
def test_a_stall_shows_in_every_request_that_was_due_in_it(address: str, connections: int) -> None:
    """200 a second for a second: 80 of the 200 are due while the server stands still, so two in five see it."""
    answers = run(address, "/stall", Phase(200.0, 1.0), connections=connections)
    result = OpenResult.of(answers, seconds=1.0)
    assert (result.requests, result.errors) == (200, 0)
    assert result.max_ms >= STALL_S * 1e3 * 0.9
    # The tenth slowest in a hundred was due a quarter into the stall. A generator that waits for its answers before it
    # sends on, and counts from there, has one slow request in 200 and a p99 below the stall.
    assert result.p90_ms >= STALL_S * 1e3 * 0.6


def test_bodies_are_sent_in_turn_at_the_rate_asked_for(address: str) -> None:
    result = OpenResult.of(run(address, "/score", Phase(100.0, 0.3), connections=1), seconds=0.3)
    assert (result.requests, result.errors) == (30, 0)
    assert result.offered_per_s == pytest.approx(100.0)
    assert result.achieved_per_s <= result.offered_per_s * 1.001
    wanted = [BODIES[number % len(BODIES)].decode() for number in range(30)]
    assert httpx.post(f"{address}/seen").json() == wanted


def test_phases_follow_each_other(address: str) -> None:
    answers = run(address, "/score", Phase(100.0, 0.1), Phase(20.0, 0.2, poisson_seed=1), Phase(50.0, 0.1))
    assert [len(answers.between(*part).due_s) for part in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.4))] == [10, 4, 5]
    assert (np.diff(answers.due_s) > 0).all()
    assert (answers.status == 200).all()


def test_the_headers_of_the_endpoint_come_beside_those_of_every_request(address: str) -> None:
    run(address, "/headers", Phase(10.0, 0.1), headers={"x-ranktower-priority": "low", "x-api-key": "secret"})
    (seen,) = httpx.post(f"{address}/seen").json()
    assert (seen["x-ranktower-priority"], seen["x-api-key"], seen["content-type"]) == (
        "low",
        "secret",
        "application/json",
    )


def test_answers_in_chunks_are_read_to_their_end(address: str) -> None:
    assert (run(address, "/chunked").status == 200).all()


def test_every_status_is_counted(address: str) -> None:
    answers = run(address, "/status/200,429,503,504,500")
    result = OpenResult.of(answers, seconds=0.2)
    assert (result.requests, result.inside, result.non_200, result.failed) == (20, 4, 16, 0)
    assert (result.status_429, result.status_503, result.status_504) == (4, 4, 4)


def test_degradation_and_release_are_read_from_the_answer(address: str) -> None:
    answers = run(address, "/half", connections=1)
    assert answers.degraded.tolist() == [False, True] * 10
    assert answers.release.tolist() == [b"r-0", b"r-1"] * 10


def test_a_refusal_has_neither(address: str) -> None:
    answers = run(address, "/status/429")
    assert not answers.degraded.any()
    assert set(answers.release.tolist()) == {b""}


def test_requests_without_an_answer_count_with_their_wait(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "ANSWER_TIMEOUT_S", 1)
    result = OpenResult.of(run(address, "/silent", Phase(20.0, 0.5), connections=2), seconds=0.5)
    assert (result.requests, result.failed, result.achieved_per_s) == (10, 10, 0.0)
    assert result.p50_ms >= 1000


def test_a_server_that_ends_fails_the_rest_of_the_requests(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "ANSWER_TIMEOUT_S", 1)
    assert (run(address, "/broken", Phase(20.0, 0.5)).status == 0).sum() == 10


def test_nobody_listening_is_one_message() -> None:
    with pytest.raises(RankTowerError, match=r"^the load generator failed: 127\.0\.0\.1:1: .*[Cc]onnection refused"):
        run("http://127.0.0.1:1", "/score")


def test_a_generator_that_does_not_end_is_killed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_TIMEOUT_S", "_START_TIMEOUT_S"):
        monkeypatch.setattr(offering, name, 0)
    with pytest.raises(RankTowerError, match=r"^the load generator was killed: not at its end after 0 s$"):
        run(address, "/score", Phase(1.0, 1.0))


@pytest.mark.parametrize("bodies", [[], [b"{\n}"], [b"{}", b"{\r}"]])
def test_no_body_and_a_body_of_two_lines_are_refused(bodies: list[bytes]) -> None:
    with pytest.raises(ValueError, match="bodies: needs at least one, and none with a line break"):
        offer(Endpoint("127.0.0.1", 1), bodies, [Phase(1, 1)], connections=1)


def test_even_and_random_schedules() -> None:
    assert Phase(4.0, 1.0).schedule().tolist() == [0.0, 0.25, 0.5, 0.75]
    random = Phase(100.0, 100.0, 3).schedule()
    gaps = np.diff(random)
    # Exponential gaps: their mean and their deviation are both 1 / rate.
    assert len(random) == 10_000
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)
    assert (Phase(100.0, 100.0, 3).schedule() == random).all()
    assert len(Phase(0.1, 1.0).schedule()) == 1


def test_no_key_stands_on_the_command_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    real = subprocess.run

    def note(command: list[str], **options: object) -> object:
        ran.append(command)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", note)
    run(address, "/score", Phase(10.0, 0.1), headers={"x-api-key": "secret"})
    assert ran
    assert "secret" not in json.dumps(ran)
