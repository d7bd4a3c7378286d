"""Which commands docker gets; what they do with a real engine, tests/docker/test_stack.py has."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from stack_compose import ComposeStack, engine_is_reachable

NOBODY = "http://127.0.0.1:9"
Docker = Callable[[str], Path]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Puts a command of this name on the path, which writes down its arguments and goes on as it is told."""

    def put(script: str) -> Path:
        asked = tmp_path / "asked"
        command = tmp_path / "docker"
        command.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{script}\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return asked

    return put


def test_an_engine_is_one_that_answers(docker: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = docker("exit 0")
    assert engine_is_reachable()
    assert asked.read_text() == "info\n"
    docker("exit 1")
    assert not engine_is_reachable()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not engine_is_reachable()


def test_a_stack_that_is_not_up_is_brought_up_and_taken_down(docker: Docker) -> None:
    asked = docker("exit 0")
    with pytest.raises(KeyboardInterrupt), ComposeStack("films", NOBODY).running():
        raise KeyboardInterrupt
    assert asked.read_text().splitlines() == [
        "compose --project-name films up --detach --wait proxy prometheus",
        "compose --project-name films down",
    ]


def test_a_stack_that_is_up_stays_as_it_is(docker: Docker) -> None:
    asked = docker("exit 0")
    with HTTPServer(("127.0.0.1", 0), _Ready) as proxy:
        Thread(target=proxy.handle_request).start()
        with ComposeStack("films", f"http://127.0.0.1:{proxy.server_port}").running():
            pass
    assert not asked.exists()


def test_what_docker_says_is_said(docker: Docker) -> None:
    docker("echo 'no such service' >&2; exit 14")
    with pytest.raises(SystemExit, match="docker compose --project-name films restart redis: no such service"):
        ComposeStack("films", NOBODY).restart_redis()


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""
