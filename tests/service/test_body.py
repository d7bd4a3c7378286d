"""Bodies that are too large, too slow or cut short, sent byte by byte to a running server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT = 4 << 20  # limits.max_body_bytes
HUNDRED_MB = 100 << 20


def peak_memory_bytes(server: Any) -> int:
    """The most memory the server has had resident so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def open_socket(server: Any) -> socket.socket:
    """A raw connection; reading fails after ten seconds."""
    port = int(server.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def head(*headers: str) -> bytes:
    return "\r\n".join(["POST /v1/score HTTP/1.1", "host: test", *headers, "", ""]).encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the one answer on a connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    front, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in front.split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return int(front.split()[1]), json.loads(body)


def test_a_declared_hundred_megabytes_is_refused_before_it_is_sent(server: Any) -> None:
    with open_socket(server) as connection:
        connection.sendall(head(f"content-length: {HUNDRED_MB}"))
        status, body = answer_of(connection)
    assert status == 413
    assert body["error_type"] == "body_too_large"
    assert body["error"] == f"the body is larger than {LIMIT} bytes"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes_are_refused_and_never_held(server: Any, chunked: bool) -> None:
    server.score("user-1", [1])
    before = peak_memory_bytes(server)

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * (1 << 20)

    content = parts() if chunked else b" " * HUNDRED_MB
    answer = server.client.post("/v1/score", content=content)
    assert answer.status_code == 413
    assert answer.json()["error_type"] == "body_too_large"
    assert peak_memory_bytes(server) - before < 20 << 20
    assert server.score("user-1", [1]).status_code == 200


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_to_the_byte(server: Any, size: int, status: int, chunked: bool) -> None:
    content = json.dumps({"user_id": 1, "candidate_ids": [1]}).encode()
    content += b" " * (size - len(content))
    answer = server.client.post("/v1/score", content=iter([content]) if chunked else content)
    assert answer.status_code == status


def test_a_body_in_many_small_chunks(server: Any) -> None:
    content = json.dumps({"user_id": "user-1", "candidate_ids": [1, 2, 3]}).encode()
    answer = server.client.post("/v1/score", content=(content[at : at + 1] for at in range(len(content))))
    assert answer.status_code == 200
    assert answer.json()["scores"] == server.score("user-1", [1, 2, 3]).json()["scores"]


def test_a_client_that_leaves_in_the_middle_harms_nobody(server: Any) -> None:
    before = server.metric("ranktower_request_duration_seconds_count", outcome="client_gone")
    with open_socket(server) as connection:
        connection.sendall(head("content-length: 100") + b'{"user_id": 1,')
        time.sleep(0.05)
    server.wait_until(
        lambda: server.metric("ranktower_request_duration_seconds_count", outcome="client_gone") == before + 1,
        "counted as gone",
    )
    assert server.score("user-1", [1]).status_code == 200


@pytest.mark.parametrize("sent", [b"", b'{"user_id": 1,'])
def test_a_body_that_does_not_come_in_time(release: Any, start_server: Callable[..., Any], sent: bytes) -> None:
    slow = start_server(release.folder.parent.parent, LIMITS__BODY_TIMEOUT_MS="200")
    with open_socket(slow) as connection:
        start = time.monotonic()
        connection.sendall(head("content-length: 100") + sent)
        status, body = answer_of(connection)
    assert status == 408
    assert body["error_type"] == "body_timeout"
    assert "200 ms" in body["error"]
    assert 0.15 < time.monotonic() - start < 5
    slow.wait_ready()
    assert slow.score("user-1", [1]).status_code == 200
    assert slow.stop() == 0


def test_expect_100_continue(server: Any) -> None:
    content = b'{"user_id": 1, "candidate_ids": [1]}'
    with open_socket(server) as connection:
        connection.sendall(head(f"content-length: {len(content)}", "expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(content)
        assert answer_of(connection)[0] == 200


def test_two_requests_in_one_packet_are_answered_in_order(server: Any) -> None:
    first, second = b'{"user_id": 1, "candidate_ids": []}', b'{"user_id": 1}'
    with open_socket(server) as connection:
        connection.sendall(b"".join(head(f"content-length: {len(content)}") + content for content in (first, second)))
        data = b""
        while data.count(b"HTTP/1.1 ") < 2 or b"required" not in data:
            data += connection.recv(65536)
    assert data.index(b"200 OK") < data.index(b" 422 ")
