"""How real services stop under load: seen by a client that asks for readiness, and through an nginx that does not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

BODY = {"user_id": "user-1", "candidate_ids": list(range(300))}
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream services {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://services;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout non_idempotent;
        }}
    }}
}}
"""


@dataclass
class Load:
    """Four clients that score without a pause over connections that they keep, until ``stop``."""

    url: str
    statuses: list[int] = field(default_factory=list)
    closing: int = 0
    errors: list[Exception] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.stop.is_set():
                try:
                    answer = client.post("/v1/score", json=BODY)
                except httpx.TransportError as error:
                    self.errors.append(error)
                else:
                    self.statuses.append(answer.status_code)
                    self.closing += answer.headers.get("connection") == "close"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask while inside, and at least a hundred times before."""
        threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            self.answered(100)
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()

    def answered(self, more: int) -> None:
        """Wait for so many more answers."""
        enough, deadline = len(self.statuses) + more, time.monotonic() + 60
        while len(self.statuses) < enough:
            assert not self.errors
            assert time.monotonic() < deadline, "the load does not move on"
            time.sleep(0.01)


def look(url: str) -> tuple[int, dict[str, Any]]:
    """Status and body of ``/readyz``, asked over a new connection."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def drained(server: Any) -> int:
    """How many processes have said that they drain."""
    # The last line may be half written.
    return server.log.read_text(encoding="utf-8").count('"message":"draining"')


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def start(start_server: Callable[..., Any], release: Any, workers: int) -> Callable[[str], Any]:
    """``start(delay_s)``: a server of which every worker is ready."""

    def start_ready(delay_s: str) -> Any:
        server = start_server(release.folder.parent.parent, "--workers", str(workers), HTTP__DRAIN_DELAY_S=delay_s)
        server.wait_until(lambda: server.log.read_text().count('"release served"') == workers, "served by all")
        return server

    return start_ready


def test_no_request_of_a_client_that_looks_at_readiness_fails(start: Callable[[str], Any], workers: int) -> None:
    server = start("600")
    load = Load(server.url)
    with load.running():
        server.process.send_signal(signal.SIGTERM)
        while (answer := look(server.url))[0] == 200:
            time.sleep(0.2)
        server.wait_until(lambda: drained(server) == workers, "draining")
        load.answered(20)
    assert answer[0] == 503
    assert answer[1]["error_type"] == "draining"
    assert answer[1]["error"] == "not ready: the service is being stopped"
    # Each on a connection of its own, which the kernel gives to any of the workers.
    assert {look(server.url)[0] for _ in range(20)} == {503}
    # In place of the delay's end, so that a slow machine has all the time it needs.
    assert server.stop() == 0
    assert load.errors == []
    assert set(load.statuses) == {200}
    assert load.closing >= 10
    lines = [line for line in server.lines() if line["logger"] in {"service.serve", "service.draining"}]
    assert [line["message"] for line in lines] == ["listening", *["draining"] * workers, "stopped"]
    assert {line["delay_s"] for line in lines[1:-1]} == {600}


def test_the_port_closes_after_the_delay_and_what_is_under_way_is_finished(start: Callable[[str], Any]) -> None:
    server = start("0.3")
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    content = b'{"user_id": "user-1", "candidate_ids": [1, 2]}'
    with socket.create_connection(address, timeout=20) as busy, socket.create_connection(address, timeout=20) as idle:
        busy.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content))
        busy.sendall(content[:10])
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        server.wait_until(lambda: not can_connect(address), "closed to new connections")
        busy.sendall(content[10:])
        with busy.makefile("rb") as stream:
            answer = stream.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
    assert server.process.wait(timeout=20) == 0


def can_connect(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_the_delay(
    start: Callable[[str], Any], workers: int, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    server = start("600")
    server.process.send_signal(numbers[0])
    server.wait_until(lambda: drained(server) == workers, "draining")
    assert server.score("user-1", [1, 2]).status_code == 200
    server.process.send_signal(numbers[1])
    assert server.process.wait(timeout=20) == 0
    assert server.lines()[-1]["message"] == "stopped"


@pytest.mark.parametrize("workers", [2], indirect=True)
def test_a_worker_that_dies_meanwhile_is_not_started_again(start: Callable[[str], Any]) -> None:
    server = start("600")
    server.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: drained(server) == 2, "draining")
    pids = {line.split(":")[0] for line in child_processes(server.process.pid)}
    os.kill(int(min(pids, key=int)), signal.SIGKILL)
    time.sleep(1.5)  # the supervisor looks twice a second
    assert len(child_processes(server.process.pid)) == 1
    assert server.log.read_text().count('"release served"') == 2
    assert httpx.post(f"{server.url}/v1/score", json=BODY).status_code == 200
    assert server.stop() == 0


def child_processes(pid: int) -> list[str]:
    """``pid:command`` of the workers that live; Python's resource tracker is a child as well."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if command and b"resource_tracker" not in command:
            found.append(f"{child}:{command!r}")
    return found


@pytest.mark.parametrize("workers", [1], indirect=True)
def test_behind_nginx_no_client_sees_that_a_service_goes(start: Callable[[str], Any], tmp_path: Path) -> None:
    going, staying = start("1"), start("1")
    servers = " ".join(f"server {one.url.removeprefix('http://')} fail_timeout=1s;" for one in (going, staying))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, servers=servers, port=port))
    with subprocess.Popen(["nginx", "-e", "stderr", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]) as nginx:
        try:
            staying.wait_until(lambda: can_connect(("127.0.0.1", port)), "reached through nginx")
            load = Load(f"http://127.0.0.1:{port}")
            with load.running():
                going.process.send_signal(signal.SIGTERM)
                assert going.process.wait(timeout=30) == 0
                # A connection that the service reset keeps nginx from asking it again for a second.
                log = tmp_path / "error.log"
                staying.wait_until(lambda: "Connection refused" in log.read_text(), "refused by the one that left")
                load.answered(100)
        finally:
            nginx.terminate()
    assert load.errors == []
    assert set(load.statuses) == {200}
