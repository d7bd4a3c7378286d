"""Workers of real servers that load, or have nothing to load: no client meets them while another one serves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ranktower.registry import Registry

BODY = {"user_id": "user-1", "candidate_ids": [1, 2, 3]}


def workers(server: Any) -> list[int]:
    """Those that live, the oldest first; Python's resource tracker is a child as well, but no worker."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(one): Path(f"/proc/{one}/cmdline").read_bytes() for one in children}
    return [one for one, command in commands.items() if command and b"resource_tracker" not in command]


def asked(server: Any) -> set[int]:
    """Statuses of readiness and scores, each on a connection of its own: the kernel gives it to whoever accepts."""
    ready = [httpx.get(f"{server.url}/readyz") for _ in range(20)]
    return {answer.status_code for answer in ready + [httpx.post(f"{server.url}/v1/score", json=BODY) for _ in ready]}


def said(server: Any, message: str) -> int:
    # The last line may be half written.
    count: int = server.log.read_text().count(f'"{message}"')
    return count


def test_one_that_takes_the_place_of_a_dead_one_is_not_met_before_it_serves(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path)
    built.promote()
    server = start_server(tmp_path, "--workers", "3")
    server.wait_until(lambda: said(server, "release served") == 3, "served by all")
    pointer = Registry(tmp_path).root / built.manifest.model / "current"
    content = pointer.read_text()
    pointer.unlink()  # who serves goes on, who starts finds nothing
    server.wait_until(lambda: said(server, "no release to serve") == 3, "told")
    for number, worker in enumerate(workers(server)[:2], start=4):
        os.kill(worker, signal.SIGKILL)
        server.wait_until(lambda number=number: said(server, "no release to serve") == number, "replaced")
        assert asked(server) == {200}
    pointer.write_text(content)
    server.wait_until(lambda: said(server, "release served") == 5, "served by the new ones")
    assert asked(server) == {200}
    assert server.stop() == 0


def test_before_a_release_one_answers_and_from_the_first_that_is_ready_on_all_are(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path)
    server = start_server(tmp_path, "--workers", "2")
    server.wait_not_ready("no_release")
    server.wait_until(lambda: said(server, "no release to serve") == 2, "told")
    assert asked(server) == {503}
    for number, worker in enumerate(workers(server), start=3):
        os.kill(worker, signal.SIGKILL)  # one of them is the one that answers
        server.wait_until(lambda number=number: said(server, "no release to serve") == number, "replaced")
        assert httpx.get(f"{server.url}/livez", timeout=20).status_code == 200
    built.promote()
    server.wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, "ready")
    while said(server, "release served") < 2:
        assert asked(server) == {200}
    assert asked(server) == {200}
    assert server.stop() == 0


@pytest.mark.parametrize("delay_s", ["0", "600"])
def test_who_has_let_nobody_in_stops_at_once(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path, delay_s: str
) -> None:
    built = build_release(tmp_path)
    built.promote()
    server = start_server(tmp_path, "--workers", "2", HTTP__DRAIN_DELAY_S=delay_s)
    server.wait_until(lambda: said(server, "release served") == 2, "served by both")
    (Registry(tmp_path).root / built.manifest.model / "current").unlink()
    server.wait_until(lambda: said(server, "no release to serve") == 2, "told")
    os.kill(workers(server)[0], signal.SIGKILL)
    server.wait_until(lambda: said(server, "no release to serve") == 3, "replaced")
    if delay_s != "0":
        serving = workers(server)[0]
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: workers(server) == [serving], "gone")
        assert httpx.post(f"{server.url}/v1/score", json=BODY).status_code == 200
    assert server.stop() == 0
