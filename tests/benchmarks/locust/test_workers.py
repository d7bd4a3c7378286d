"""The verdict of several processes is made of all their requests, late ones included."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis_run import free_port

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
SCORES = ("--mix", "score=1")
_SCORED = re.compile(r'^ranktower_request_duration_seconds_count\{endpoint="score",.*\} (\S+)$', re.MULTILINE)


def two_processes() -> list[str]:
    port = str(free_port())
    return ["--processes", "2", "--master-bind-port", port, "--master-port", port]


def num_scored(address: str) -> int:
    """What the service itself has counted."""
    return sum(int(float(count)) for count in _SCORED.findall(httpx.get(f"{address}/metrics").text))


def test_the_counts_of_several_processes_are_those_of_the_service(address: str, locust: Any) -> None:
    before = num_scored(address)
    done = locust(address, *SCORES, *two_processes())
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"^(\d+) requests, .*failed 0.00%", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    assert int(told[1]) == num_scored(address) - before > 0


def test_a_server_that_hangs_at_the_end_is_found_out(locust: Any, answering: Any) -> None:
    """It answers 20 requests and no other: the run is over before the first of these is given up."""

    def hang(number: int, write: Callable[[bytes], Any]) -> None:
        if number <= 20:
            write(ANSWER)

    server = answering(hang)
    done = locust(server.address, *SCORES, *two_processes())
    counted = len(server.paths)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"\n{counted} requests, " in f"\n{done.stdout}"
    assert f"failures: {counted - 20} × TimeoutError" in done.stdout


def test_a_worker_that_is_gone_is_missed(address: str, locust: Any, tmp_path: Path) -> None:
    """All that its master learns of its end is that nothing comes."""
    command = locust.command("--headless", "--only-summary", "--host", address, "--users", "20", "--spawn-rate", "20")
    before = num_scored(address)
    with (
        (tmp_path / "out").open("wb") as out,
        subprocess.Popen([*command, "--run-time", "4s", *SCORES, *two_processes()], stdout=out, stderr=out) as master,
    ):
        deadline = time.monotonic() + 60
        while num_scored(address) < before + 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()[0]
        os.kill(int(worker), signal.SIGKILL)
    assert master.returncode == 1
    told = (tmp_path / "out").read_text()
    assert re.search(r"^worker [01]: no word of what it counted$", told, re.MULTILINE), told
    assert re.search(r"^[1-9]\d* requests, .*failed 0.00%", told, re.MULTILINE), told
