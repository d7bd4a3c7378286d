"""Both clients behind one face, and a server that fails as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.client import AsyncRankTowerClient, RankTowerClient


class Blocked:
    """An ``AsyncRankTowerClient`` whose calls block: each is run by a loop of its own, always the same."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncRankTowerClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._runner.run(getattr(self._client, name)(*arguments, **options))

    def end(self) -> None:
        self.close()
        self._runner.close()


@pytest.fixture(params=["blocking", "asynchronous"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """``make_client(url, deadline_ms=..., ...)``, of either kind; closed with the test."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append((RankTowerClient if request.param == "blocking" else Blocked)(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.end() if isinstance(client, Blocked) else client.close()


def http(status: int, content: bytes | dict[str, Any], **headers: str) -> bytes:
    """An answer as it stands on the wire."""
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = http(200, {
    "request_id": "r", "release": "x", "user": "PRESENT", "scores": [0.5], "missing": [], "degraded": None,
    "took_ms": 1,
})  # fmt: skip


@dataclass
class Request:
    """What the server was sent."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FaultyServer:
    """Does with each request what ``script`` says next, the last entry again and again: bytes are sent; ``drop`` closes
    the connection, ``reset`` resets it, ``hang`` says nothing until the client has left, ``half`` closes in the middle
    of an answer, ``drip`` sends a body that never ends."""

    script: list[bytes | str]
    requests: list[Request] = field(default_factory=list)
    num_connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while line := stream.readline():
                headers = {}
                while header := stream.readline().decode().strip():
                    name, _, value = header.partition(": ")
                    headers[name.lower()] = value
                body = stream.read(int(headers.get("content-length", 0)))
                self.requests.append(Request(line.decode().strip(), headers, body))
                deed = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if isinstance(deed, str):
                    self._fail(deed, connection)
                    return
                connection.sendall(deed)

    def _fail(self, deed: str, connection: socket.socket) -> None:
        if deed == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif deed == "half":
            connection.sendall(GOOD[:-20])
        elif deed == "hang":
            connection.recv(1)
        elif deed == "drip":
            connection.sendall(b"HTTP/1.1 200 X\r\ncontent-length: 1000000\r\n\r\n")
            connection.settimeout(0.01)
            while True:
                connection.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        return
        else:
            assert deed == "drop"


@pytest.fixture
def start_faulty() -> Iterator[Callable[..., FaultyServer]]:
    """``start_faulty("drop", GOOD)``; ends with the test."""
    servers: list[FaultyServer] = []

    def start(*script: bytes | str) -> FaultyServer:
        servers.append(FaultyServer(list(script)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def good() -> bytes:
    """The answer to ``score(user, [candidate])``."""
    return GOOD


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """``answer(503, {"error": ...}, retry_after="1")``: an answer as it stands on the wire."""
    return http
