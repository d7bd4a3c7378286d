"""``docker/nginx.conf`` in a real nginx, before two servers that answer as they are told. The name server is left out:
Debian's nginx is too old for it; ``make test-compose`` has it."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

CONFIG = Path(__file__).parents[2] / "docker" / "nginx.conf"
NOT_READY = (503, b'{"error":"x","error_type":"loading","request_id":"r"}')
SCORED = (200, b'{"scores":[]}')


@dataclass
class Replica:
    """A server that gives one answer and remembers the headers of what it was asked."""

    answer: tuple[int, bytes] = SCORED
    asked: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        replica = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                replica.asked.append({name.lower(): value for name, value in self.headers.items()})
                status, body = replica.answer
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.server.server_close()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def statuses_in(log: Path, count: int) -> list[int]:
    """The statuses logged once there are so many: a line is written after its answer has gone."""
    deadline, lines = time.monotonic() + 30, [""]
    while len(lines) < count and time.monotonic() < deadline:
        lines = log.read_text().splitlines()
        time.sleep(0.01)
    return [json.loads(line)["status"] for line in lines]


@pytest.fixture
def replicas() -> Iterator[tuple[Replica, Replica]]:
    both = Replica(), Replica()
    yield both
    for replica in both:
        replica.stop()


@pytest.fixture
def proxy(replicas: tuple[Replica, Replica], tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = CONFIG.read_text(encoding="utf-8")
    servers = " ".join(f"server 127.0.0.1:{replica.port} max_fails=0;" for replica in replicas)
    for old, new in {
        "resolver 127.0.0.11 valid=1s ipv6=off;": "",
        "server service:8000 resolve max_fails=0;": servers,
        "listen 8080 ": f"listen 127.0.0.1:{port} ",
        "/tmp/": f"{tmp_path}/",
        "/dev/stdout": str(tmp_path / "access.log"),
        # Started by root, its workers would be another user, who cannot write in the test's folder.
        "worker_processes 2;": "worker_processes 1; daemon off; user root;",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(text)
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert nginx is not None, "nginx is not installed; these tests need the real one"
    with (tmp_path / "error.log").open("wb") as log:
        process = subprocess.Popen([nginx, "-e", "stderr", "-c", str(tmp_path / "nginx.conf")], stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not is_listening(port):
            assert process.poll() is None, (tmp_path / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/v1/score"
    finally:
        process.terminate()
        process.wait(30)


def test_what_a_client_says_reaches_the_service(proxy: str, replicas: tuple[Replica, Replica]) -> None:
    said = {"x-request-id": "a:b/c+d=e@f-1", "traceparent": "00-1-2-01", "x-envoy-expected-rq-timeout-ms": "20"}
    assert httpx.post(proxy, json={}, headers=said).json() == {"scores": []}
    (asked,) = [*replicas[0].asked, *replicas[1].asked]
    assert said.items() <= asked.items()
    assert asked["x-forwarded-proto"] == "http"


def test_an_id_that_the_service_would_replace_is_replaced(proxy: str, replicas: tuple[Replica, Replica]) -> None:
    httpx.post(proxy, json={}, headers={"x-request-id": 'odd "id"'})
    httpx.post(proxy, json={})
    for asked in [*replicas[0].asked, *replicas[1].asked]:
        assert len(asked["x-request-id"]) == 32


def test_who_has_no_release_or_is_gone_is_passed_over(proxy: str, replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    first.answer = NOT_READY
    assert [httpx.post(proxy, json={}).status_code for _ in range(10)] == [200] * 10
    assert len(second.asked) == 10
    first.stop()
    assert [httpx.post(proxy, json={}).status_code for _ in range(10)] == [200] * 10


def test_a_body_that_does_not_fit_in_memory_is_sent_again(proxy: str, replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    first.answer = NOT_READY
    sizes = [200_000, 1_000_000, 4_000_000]
    assert [httpx.post(proxy, content=b" " * size).status_code for size in sizes * 2] == [200] * 6
    assert [int(asked["content-length"]) for asked in second.asked] == sizes * 2
    assert first.asked


def test_the_services_own_errors_pass_as_they_are(proxy: str, replicas: tuple[Replica, Replica]) -> None:
    """Also when every replica has failed many times: none is taken out, and the answer is never the proxy's."""
    for replica in replicas:
        replica.answer = NOT_READY
    answers = [httpx.post(proxy, json={}) for _ in range(20)]
    assert {(answer.status_code, answer.content) for answer in answers} == {NOT_READY}


def test_its_own_errors_have_the_services_form(proxy: str, replicas: tuple[Replica, Replica], tmp_path: Path) -> None:
    large = httpx.post(f"{proxy}?user=1", content=b"x" * (5 << 20), headers={"x-request-id": "mine"})
    assert (large.status_code, large.headers["content-type"]) == (413, "application/json")
    assert large.json() == {"error": "the body is too large", "error_type": "body_too_large", "request_id": "mine"}
    for replica in replicas:
        replica.stop()
    gone = httpx.post(proxy, json={})
    assert (gone.status_code, gone.json()["error_type"]) == (502, "no_replica")
    assert gone.headers["x-request-id"] == gone.json()["request_id"]
    log = tmp_path / "access.log"
    assert statuses_in(log, 2) == [413, 502]
    for line in map(json.loads, log.read_text().splitlines()):
        assert (line["method"], line["path"]) == ("POST", "/v1/score")


@pytest.mark.parametrize(
    ("request_line", "status", "error_type"),
    [
        ("TRACE / HTTP/1.1\r\nHost: h", 405, "method_not_allowed"),
        ("CONNECT / HTTP/1.1\r\nHost: h", 405, "method_not_allowed"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip", 501, "malformed"),
        ("GET / HTTP/3.0\r\nHost: h", 505, "malformed"),
        ("GET / HTTP/1.1", 400, "malformed"),
        ("GET /.error HTTP/1.1\r\nHost: h", 404, "not_found"),
        ("nonsense", 400, "malformed"),
    ],
)
def test_what_it_refuses_has_the_services_form(proxy: str, request_line: str, status: int, error_type: str) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(proxy).port or 0), timeout=30) as client:
        client.sendall(f"{request_line}\r\nConnection: close\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body)["error_type"] == error_type
