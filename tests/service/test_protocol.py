"""Requests that offer another protocol, byte by byte on a running server: they are answered as if they did not."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

BODY = b'{"user_id": "user-1", "candidate_ids": [1, "2"]}'
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"a\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (BODY[:10], len(BODY) - 10, BODY[10:])
LIVE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


def request(headers: bytes, body: bytes) -> bytes:
    return b"POST /v1/score HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n" + body


def answers(server: Any, packets: list[bytes], count: int) -> list[tuple[int, dict[str, Any]]]:
    """Send the packets one by one, and read so many answers off the connection."""
    found: list[tuple[int, dict[str, Any]]] = []
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), timeout=10) as connection:
        for packet in packets:
            connection.sendall(packet)
            time.sleep(0.05)
        with connection.makefile("rb") as stream:
            for _ in range(count):
                status = int(stream.readline().split()[1])
                headers = dict(line.strip().lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
                found.append((status, json.loads(stream.read(int(headers[b"content-length"])))))
    return found


@pytest.mark.parametrize(("length", "body"), [(LENGTH, BODY), (CHUNKED, CHUNKS)], ids=["content-length", "chunked"])
@pytest.mark.parametrize("cut", [None, 3, -1])
def test_the_body_of_a_request_that_offers_http2_is_read(
    server: Any, release: Any, length: bytes, body: bytes, cut: int | None
) -> None:
    whole = request(OFFER + length, body)
    at = None if cut is None else len(whole) - len(body) + cut if cut > 0 else cut
    packets = [whole, LIVE] if at is None else [whole[:at], whole[at:], LIVE]
    (status, answer), live = answers(server, packets, 2)
    assert status == 200
    assert answer["scores"] == pytest.approx(release.scores("user-1", [1, 2]).tolist(), abs=4e-5)
    assert live == (200, {"status": "alive"})  # the connection goes on


def test_requests_behind_it_in_the_same_packet_are_answered_too(server: Any) -> None:
    offering = request(OFFER + LENGTH, BODY)
    found = answers(server, [offering + LIVE + offering + LIVE], 4)
    assert [status for status, _ in found] == [200] * 4
    assert [len(answer.get("scores", [])) for _, answer in found] == [2, 0, 2, 0]


@pytest.mark.parametrize(
    "offer", [OFFER, b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"]
)
def test_a_request_without_a_body_may_offer_it(server: Any, offer: bytes) -> None:
    offering = b"GET /livez HTTP/1.1\r\nhost: x\r\n" + offer + b"\r\n"
    assert answers(server, [offering, offering + LIVE], 3) == [(200, {"status": "alive"})] * 3


def test_a_broken_body_behind_an_offer_is_no_request(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), timeout=10) as connection:
        connection.sendall(request(OFFER + CHUNKED, b"zz\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert server.score("user-1", [1]).status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_curl_that_offers_http2(server: Any) -> None:
    command = [
        "curl",
        "--silent",
        "--http2",
        "--max-time",
        "10",
        "--data-binary",
        BODY.decode(),
        server.url + "/v1/score",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    assert len(json.loads(done.stdout)["scores"]) == 2
