"""The process of ``offer``: posts requests at given times over keep-alive connections.

``offer`` runs it over a folder with the job, the bodies and the schedule; it adds the ``Answers``. A request's latency
counts from the time at which it was due, so a request that waits for a connection, because the server stalls, counts
that wait (no coordinated omission). The timer is a Linux timerfd: event loops round theirs to milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop

from offline.bench.answers import Answers
from offline.bench.offer import ANSWERS_FILE, BODIES_FILE, JOB_FILE, SCHEDULE_FILE

# The first request is due this long after the connections stand.
_LEAD_S = 0.05
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_TIMER_ABSTIME = 1
# In place of a body's length. A JSON answer does not hold the line breaks that end the last chunk.
_CHUNKED = -1
# Bytes of an answer, which is not parsed: that would cost more than sending its request. Neither can be part of an id,
# where a quotation mark has a backslash in front. The release stands near the beginning, ``degraded`` near the end.
_DEGRADED = b'"degraded":{'
_RELEASE = b'"release":"'
_RELEASE_WITHIN = 400


class Timer:
    """Wakes the event loop at points of ``time.monotonic``, tens of microseconds late."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, due: float) -> None:
        """Make ``fd`` readable at ``due``; at once where that has passed."""
        seconds, fraction = divmod(due, 1.0)
        # struct itimerspec: interval (0: once) and value, each in seconds and nanoseconds.
        spec = (ctypes.c_long * 4)(0, 0, int(seconds), int(fraction * 1e9))
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.number: int | None = None
        self.transport: asyncio.Transport
        self._received = bytearray()
        self._head_length = 0
        self._body_length = 0

    def send(self, request: bytes, number: int) -> None:
        """Write the request that is due as the ``number``-th."""
        self.number = number
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._head_length:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head_length = end + 4
            self._body_length = _body_length(bytes(self._received[:end]))
        if not self._is_whole():
            return
        number, self.number = self.number, None
        if number is not None:
            self.generator.note(number, self._received, self._head_length)
        self._received.clear()
        self._head_length = 0
        if number is not None:
            self.generator.take(self)

    def _is_whole(self) -> bool:
        if self._body_length == _CHUNKED:
            return self._received.endswith(b"0\r\n\r\n", self._head_length)
        return len(self._received) >= self._head_length + self._body_length

    def connection_lost(self, exc: Exception | None) -> None:
        self.generator.lost(self, self.number)


class Generator:
    """Sends every request at its time and keeps what came of it."""

    def __init__(self, job: dict[str, Any], requests: list[bytes], schedule: list[float]) -> None:
        self.job, self.requests, self.schedule = job, requests, schedule
        self.start = 0.0
        self.num_due = self.num_done = 0
        count = len(schedule)
        self.lags, self.latencies = [math.nan] * count, [math.nan] * count
        self.statuses, self.degraded, self.releases = [0] * count, [False] * count, [b""] * count
        self.free: deque[Connection] = deque()
        self.waiting: deque[int] = deque()
        self.timer = Timer()
        self.finished = asyncio.Event()
        self.connections: set[Connection] = set()
        self.reconnecting: set[asyncio.Task[None]] = set()
        self.error: str | None = None

    async def run(self) -> Answers:
        """Open the connections, send everything, wait for the answers."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.stop(str(context.get("exception") or context["message"])))
        for _ in range(self.job["connections"]):
            await self._connect()
        self.start = time.monotonic() + _LEAD_S
        loop.add_reader(self.timer.fd, self._tick)
        self.timer.set(self.start + self.schedule[0])
        try:
            await asyncio.wait_for(self.finished.wait(), _LEAD_S + self.schedule[-1] + self.job["timeout_s"])
        except TimeoutError:
            self._give_up()
        if self.error:
            raise OSError(self.error)
        return Answers(
            due_s=np.array(self.schedule),
            lag_ms=np.array(self.lags) * 1e3,
            latency_ms=np.array(self.latencies) * 1e3,
            status=np.array(self.statuses, dtype=np.int16),
            degraded=np.array(self.degraded),
            release=np.array(self.releases),
        )

    def note(self, number: int, answer: bytearray, head_length: int) -> None:
        """One answer came, head and body."""
        self._done(number)
        self.statuses[number] = int(answer[9:12])
        if answer[9:12] == b"200":
            self.degraded[number] = answer.rfind(_DEGRADED, head_length) >= 0
            self.releases[number] = _release(answer, head_length)

    def take(self, connection: Connection) -> None:
        """A connection became free; it takes the request that has waited longest."""
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def lost(self, connection: Connection, number: int | None) -> None:
        """The server closed a connection; another one takes its place."""
        self.connections.discard(connection)
        if self.finished.is_set():
            return
        if number is None:
            self.free.remove(connection)
        else:
            self._done(number)
        task = asyncio.get_running_loop().create_task(self._reconnect())
        self.reconnecting.add(task)
        task.add_done_callback(self.reconnecting.discard)

    def stop(self, error: str) -> None:
        """End the run: its figures would mean nothing."""
        self.error = error
        self.finished.set()

    async def _connect(self) -> None:
        host, port = self.job["host"], self.job["port"]
        _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(self), host, port)
        self.connections.add(connection)
        self.take(connection)

    async def _reconnect(self) -> None:
        while not self.finished.is_set():
            with contextlib.suppress(OSError):
                await self._connect()
                return
            await asyncio.sleep(0.05)

    def _tick(self) -> None:
        os.read(self.timer.fd, 8)
        now = time.monotonic() - self.start
        while self.num_due < len(self.schedule) and self.schedule[self.num_due] <= now:
            number = self.num_due
            self.num_due += 1
            self.lags[number] = now - self.schedule[number]
            if self.free:
                self._send(self.free.popleft(), number)
            else:
                self.waiting.append(number)
            now = time.monotonic() - self.start
        if self.num_due < len(self.schedule):
            self.timer.set(self.start + self.schedule[self.num_due])

    def _send(self, connection: Connection, number: int) -> None:
        connection.send(self.requests[number % len(self.requests)], number)

    def _done(self, number: int) -> None:
        self.latencies[number] = time.monotonic() - self.start - self.schedule[number]
        self.num_done += 1
        if self.num_done == len(self.schedule):
            self.finished.set()

    def _give_up(self) -> None:
        # Leaving these out would make a server that hangs look fast.
        for number, latency in enumerate(self.latencies):
            if math.isnan(latency):
                self._done(number)


def read_requests(job: dict[str, Any], path: Path) -> list[bytes]:
    """The file of bodies, one a line, as whole HTTP requests."""
    headers = {"host": f"{job['host']}:{job['port']}", "content-type": "application/json", **job["headers"]}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {job['path']} HTTP/1.1\r\n{lines}"
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in path.read_bytes().splitlines()]


def _release(answer: bytearray, start: int) -> bytes:
    begin = answer.find(_RELEASE, start, start + _RELEASE_WITHIN)
    if begin < 0:
        return b""
    begin += len(_RELEASE)
    return bytes(answer[begin : answer.find(b'"', begin)])


def _body_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
        if name.lower() == b"transfer-encoding":
            return _CHUNKED
    raise ValueError(f"an answer of unknown length: {head!r}")


def main() -> None:
    """Do the job in the folder of the first argument."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / JOB_FILE).read_bytes())
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    requests = read_requests(job, folder / BODIES_FILE)
    schedule = np.load(folder / SCHEDULE_FILE).tolist()
    # A collection would be a stall of our own in the server's latencies. Nothing here is freed by cycles.
    gc.disable()

    async def measure() -> Answers:
        return await Generator(job, requests, schedule).run()

    try:
        answers = uvloop.run(measure())
    except OSError as error:
        raise SystemExit(f"{job['host']}:{job['port']}: {error}") from error
    answers.save(folder / ANSWERS_FILE)


if __name__ == "__main__":
    main()
