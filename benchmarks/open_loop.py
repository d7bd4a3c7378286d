"""The process of ``load.open_loop``: posts requests at given times over keep-alive connections.

``load.open_loop`` runs it with one JSON argument; it writes the figures of an ``OpenResult`` to stdout. A request's
latency counts from the time at which it was due, so a request that waits for a connection, because the server stalls,
counts that wait (no coordinated omission). The timer is a Linux timerfd: event loops round theirs to milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

# The first request is due this long after the connections stand.
_LEAD_S = 0.05
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_TIMER_ABSTIME = 1
# In place of a body's length. A JSON answer does not hold the line breaks that end the last chunk.
_CHUNKED = -1
_PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}


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
        self.due: float | None = None
        self.transport: asyncio.Transport
        self._received = bytearray()
        self._head_length = 0
        self._body_length = 0

    def send(self, request: bytes, due: float) -> None:
        """Write a request that was due at ``due``."""
        self.due = due
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
        status, due = bytes(self._received[9:12]), self.due
        self._received.clear()
        self._head_length, self.due = 0, None
        if due is not None:
            self.generator.answered(self, due, is_ok=status == b"200")

    def _is_whole(self) -> bool:
        if self._body_length == _CHUNKED:
            return self._received.endswith(b"0\r\n\r\n", self._head_length)
        return len(self._received) >= self._head_length + self._body_length

    def connection_lost(self, exc: Exception | None) -> None:
        self.generator.lost(self, self.due)


class Generator:
    """Sends every request at its time and keeps what came of it."""

    def __init__(self, job: dict[str, Any], requests: list[bytes], schedule: NDArray[np.float64]) -> None:
        self.job, self.requests = job, requests
        self.schedule: list[float] = schedule.tolist()
        self.num_sent = self.num_due = self.non_200 = self.failed = 0
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.last_answer = 0.0
        self.free: deque[Connection] = deque()
        self.waiting: deque[float] = deque()
        self.timer = Timer()
        self.finished = asyncio.Event()
        self.connections: set[Connection] = set()
        self.reconnecting: set[asyncio.Task[None]] = set()
        self.error: str | None = None

    async def run(self) -> dict[str, float]:
        """Open the connections, send everything, wait for the answers."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.stop(str(context.get("exception") or context["message"])))
        for _ in range(self.job["connections"]):
            await self._connect()
        start = time.monotonic() + _LEAD_S
        self.schedule = [start + due for due in self.schedule]
        loop.add_reader(self.timer.fd, self._tick)
        self.timer.set(self.schedule[0])
        try:
            await asyncio.wait_for(self.finished.wait(), self.schedule[-1] - start + self.job["timeout_s"])
        except TimeoutError:
            self._give_up()
        if self.error:
            raise OSError(self.error)
        return self._figures(start)

    def answered(self, connection: Connection, due: float, *, is_ok: bool) -> None:
        """One answer came; the connection takes the request that has waited longest."""
        self.last_answer = time.monotonic()
        self._count(self.last_answer - due)
        self.non_200 += not is_ok
        self._take(connection)

    def lost(self, connection: Connection, due: float | None) -> None:
        """The server closed a connection; another one takes its place."""
        self.connections.discard(connection)
        if self.finished.is_set():
            return
        if due is None:
            self.free.remove(connection)
        else:
            self.failed += 1
            self._count(time.monotonic() - due)
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
        self._take(connection)

    async def _reconnect(self) -> None:
        while not self.finished.is_set():
            with contextlib.suppress(OSError):
                await self._connect()
                return
            await asyncio.sleep(0.05)

    def _tick(self) -> None:
        os.read(self.timer.fd, 8)
        now = time.monotonic()
        while self.num_due < len(self.schedule) and self.schedule[self.num_due] <= now:
            due = self.schedule[self.num_due]
            self.num_due += 1
            self.lags.append(now - due)
            if self.free:
                self._send(self.free.popleft(), due)
            else:
                self.waiting.append(due)
            now = time.monotonic()
        if self.num_due < len(self.schedule):
            self.timer.set(self.schedule[self.num_due])

    def _take(self, connection: Connection) -> None:
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        connection.send(self.requests[self.num_sent % len(self.requests)], due)
        self.num_sent += 1

    def _count(self, latency: float) -> None:
        self.latencies.append(latency)
        if len(self.latencies) == len(self.schedule):
            self.finished.set()

    def _give_up(self) -> None:
        # Leaving these out would make a server that hangs look fast.
        in_flight = [connection.due for connection in self.connections if connection.due is not None]
        unanswered = [*in_flight, *self.waiting, *self.schedule[self.num_due :]]
        now = time.monotonic()
        self.failed += len(unanswered)
        self.latencies += [now - due for due in unanswered]
        self.finished.set()

    def _figures(self, start: float) -> dict[str, float]:
        span = self.schedule[-1] - start + 1 / self.job["rate"]
        num_answered = len(self.latencies) - self.failed
        latencies, lags = np.array(self.latencies) * 1e3, np.array(self.lags) * 1e3
        return {
            "offered_per_s": len(self.schedule) / span,
            "achieved_per_s": num_answered / max(self.last_answer - start, span),
            **{name: float(np.percentile(latencies, q)) for name, q in _PERCENTILES.items()},
            "lag_p50_ms": float(np.percentile(lags, 50)),
            "lag_p99_ms": float(np.percentile(lags, 99)),
            "requests": len(self.schedule),
            "non_200": self.non_200,
            "failed": self.failed,
        }


def read_requests(job: dict[str, Any]) -> list[bytes]:
    """The file of bodies, one a line, as whole HTTP requests."""
    head = f"POST {job['path']} HTTP/1.1\r\nhost: {job['host']}:{job['port']}\r\ncontent-type: application/json\r\n"
    lines = Path(job["bodies"]).read_bytes().splitlines()
    return [f"{head}content-length: {len(line)}\r\n\r\n".encode() + line for line in lines]


def make_schedule(rate: float, seconds: float, poisson_seed: int | None) -> NDArray[np.float64]:
    """Due times in seconds from the start, ascending, ``[rate * seconds]``; at least one."""
    count = max(1, round(rate * seconds))
    if poisson_seed is None:
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(poisson_seed).exponential(1 / rate, count))


def _body_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
        if name.lower() == b"transfer-encoding":
            return _CHUNKED
    raise ValueError(f"an answer of unknown length: {head!r}")


def main() -> None:
    """Do the job of the first argument and print its figures."""
    job = json.loads(sys.argv[1])
    requests = read_requests(job)
    schedule = make_schedule(job["rate"], job["seconds"], job["poisson_seed"])
    # A collection would be a stall of our own in the server's latencies. Nothing here is freed by cycles.
    gc.disable()

    async def measure() -> dict[str, float]:
        return await Generator(job, requests, schedule).run()

    try:
        figures = uvloop.run(measure())
    except OSError as error:
        raise SystemExit(f"open_loop: {job['host']}:{job['port']}: {error}") from error
    sys.stdout.write(json.dumps(figures))
