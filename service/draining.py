"""How the service stops: for ``http.drain_delay_s`` it says that it is going, and serves on; then it closes the port.

Whoever spreads requests over several services learns of it at its next look at ``/readyz``, and has sent its last one
before the port closes. Without that time, requests that are sent at this very moment fail.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """The delay of one process that serves. It holds the first stop signal back from the server, which has installed
    its handlers already; the second one, or the end of the delay, reaches it. With a delay of 0 the first one does."""

    def __init__(self, delay_s: float) -> None:
        """Takes no signal before ``start``."""
        self._delay_s = delay_s
        self._servers_handlers: dict[int, Any] = {}  # while ours stand in their place
        self.begun = False
        """Whether the service is going: it is not ready any more, and keeps no connection alive."""

    def start(self) -> None:
        """Take the signals, in the main thread's running loop."""
        self._loop = asyncio.get_running_loop()
        self._servers_handlers = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}

    def stop(self) -> None:
        """Give the signals back to the server."""
        while self._servers_handlers:
            signal.signal(*self._servers_handlers.popitem())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        is_first, self.begun = not self.begun, True
        if not is_first or not self._delay_s:
            self.end(number)
        else:
            # Nothing else is safe here: the signal may have come in the middle of a log line.
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        logger.info("draining", extra={"fields": {"delay_s": self._delay_s}})
        self._loop.call_later(self._delay_s, self.end)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Let the server stop now."""
        if self._servers_handlers:  # else a second signal has ended it before its time
            self.stop()
            signal.raise_signal(number)


class Workers(Multiprocess):
    """Several processes that serve: they drain together, and none that ends meanwhile is started again."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, delay_s: float) -> None:
        """``delay_s`` is that of each worker's ``Drain``."""
        super().__init__(config, [listener])
        self._listener = listener
        self._delay_s = delay_s

    @property
    def have_failed(self) -> bool:
        """Whether they ended because one of them could not start."""
        return any(one.exitcode == STARTUP_FAILURE for one in self.processes)

    def join_all(self) -> None:
        """Wait for the workers, which have had their signal; a second one is passed on to them."""
        end = time.monotonic() + self._delay_s
        while time.monotonic() < end and any(one.process.is_alive() for one in self.processes):
            if not set(STOP_SIGNALS).isdisjoint(self.signal_queue):
                self.terminate_all()
                break
            time.sleep(0.05)
        # As long as one process has it open, clients can connect, and would wait for workers that accept no more.
        self._listener.close()
        super().join_all()
