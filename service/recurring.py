"""What the service does again and again beside the requests, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class Recurring:
    """Calls ``work`` at an interval. A fault of this program must not end that for ever without a word."""

    def __init__(self, what: str, work: Callable[[], Awaitable[None]], *, every_s: float, retry_s: float) -> None:
        """Does nothing before ``start``. After a fault, which the log names by ``what``, it waits for ``retry_s``."""
        self._what = what
        self._work = work
        self._every_s = every_s
        self._retry_s = retry_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in a task of the running loop, until ``stop``."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, in the middle of the work too."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            wait_s = self._every_s
            try:
                await self._work()
            except Exception:
                logger.exception("%s failed; trying again", self._what)
                wait_s = self._retry_s
            await asyncio.sleep(wait_s)
