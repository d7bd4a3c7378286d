"""When one of several workers begins to accept connections: once it serves a release.

All listen on one port, and the system deals connections to whoever accepts. A worker that still loads, at the start or
in the place of one that died, would refuse requests that the others could answer. Before any of them serves, one
accepts all the same: somebody has to answer ``/livez``, and ``/readyz`` with what is missing. Until that one serves no
other accepts, so that readiness does not depend on who is asked.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

_LOOK_S = 0.02


class Door:
    """Of one worker. Whoever accepts holds a lock on a file of the workers': all that serve share it, the one that does
    not serve yet has it for itself. The system gives it back when a worker dies."""

    def __init__(self, folder: Path | None, is_serving: Callable[[], bool]) -> None:
        """``folder`` is the workers', None where there is but one process, whose door is always open."""
        self._path = None if folder is None else folder / "door.lock"
        self._is_serving = is_serving
        self._lock: int | None = None
        self._sharing: asyncio.Task[None] | None = None

    async def open(self, is_stopping: Callable[[], bool]) -> None:
        """Return when this worker is to accept connections, or is to stop."""
        if self._path is None:
            return
        self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        while not is_stopping():
            is_serving = self._is_serving()
            if self._take(fcntl.LOCK_SH if is_serving else fcntl.LOCK_EX):
                if not is_serving:
                    self._sharing = asyncio.get_running_loop().create_task(self._share())
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Let another one be the first."""
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.wait([self._sharing])
        if self._lock is not None:
            os.close(self._lock)

    async def _share(self) -> None:
        """Let the others in, once this one serves."""
        while not self._is_serving() or not self._take(fcntl.LOCK_SH):
            await asyncio.sleep(_LOOK_S)

    def _take(self, kind: int) -> bool:
        """A record lock: unlike ``flock``, it becomes a shared one without being free in between."""
        assert self._lock is not None
        try:
            fcntl.lockf(self._lock, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True
