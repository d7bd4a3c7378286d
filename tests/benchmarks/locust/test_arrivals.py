"""When requests are sent, where to, and when they are given up: by locust itself, against servers that answer oddly."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
SCORES = ("--mix", "score=1")


def test_requests_come_when_they_are_due_and_latencies_count_from_then(
    locust: Any, answering: Any, tmp_path: Path
) -> None:
    """The server answers nobody until 40 requests have come. 15 users that waited for their answers would never send
    them; and of those who came first, each has waited from when its request was due until the server went on."""
    record = tmp_path / "record.csv"
    went_on, went_on_s = threading.Event(), []

    def stall(number: int, write: Callable[[bytes], Any]) -> None:
        if number == 40:
            went_on_s.append(time.time())
            went_on.set()
        went_on.wait(60)
        write(ANSWER)

    server = answering(stall)
    done = locust(server.address, "--users", "15", "--run-time", "6s", *SCORES, "--record", str(record))
    assert done.returncode == 0, done.stdout + done.stderr
    with record.open(encoding="utf-8", newline="") as file:
        seen = sorted(csv.DictReader(file), key=lambda row: float(row["due_s"]))
    assert len(seen) >= 40
    for row in seen[:40]:
        answered_s = float(row["due_s"]) + float(row["latency_ms"]) / 1e3
        assert answered_s >= went_on_s[0] - 0.01  # of the clocks
        assert float(row["latency_ms"]) >= float(row["lag_ms"])
    assert float(seen[0]["latency_ms"]) > float(seen[39]["latency_ms"])


def test_an_answer_that_trickles_is_given_up(locust: Any, answering: Any) -> None:
    """Something of it comes all the time, so that no single read takes long."""

    def trickle(_: int, write: Callable[[bytes], Any]) -> None:
        write(ANSWER.replace(b": 2", b": 1000"))
        while True:
            write(b" ")
            time.sleep(0.5)

    server = answering(trickle)
    done = locust(server.address, "--users", "5", "--run-time", "2s", *SCORES)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"failures: {len(server.paths)} × TimeoutError" in done.stdout


def test_a_service_below_a_path_is_asked_there(locust: Any, answering: Any) -> None:
    server = answering(lambda _, write: write(ANSWER))
    done = locust(f"{server.address}/scores/", "--run-time", "2s", *SCORES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(server.paths) == {"/scores/v1/score"}
