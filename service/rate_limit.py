"""How many requests a key may make: a limit over all workers of a service.

The generic cell rate algorithm: of each key only the time is kept at which it would have used up nothing again. A
request moves that time on by the interval of the rate, and is refused if it would get further ahead than the burst.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_SIZE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Rate:
    """One request each interval, and as many at once as the burst."""

    interval_ns: int
    burst: int


class RateLimits:
    """The state of all keys with a limit. Several workers share it in memory-mapped files, so it outlives each of
    them, under one lock that is held for microseconds and that the system gives back when a process ends."""

    def __init__(self, folder: Path | None) -> None:
        """``folder`` is that of the workers; None for a service of one process."""
        self._folder = folder
        self._lock = None if folder is None else os.open(folder / "rate-limits.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._cells: dict[str, memoryview] = {}

    def take(self, key_id: str, rate: Rate) -> float:
        """Count a request and return 0, or return the seconds after which one would be let in."""
        cell = self._cells.get(key_id)
        if cell is None:
            cell = self._cells[key_id] = self._open(key_id)
        if self._lock is None:
            return _take(cell, rate)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            return _take(cell, rate)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def keep(self, key_ids: Collection[str]) -> None:
        """Forget all other keys."""
        self._cells = {key_id: cell for key_id, cell in self._cells.items() if key_id in key_ids}

    def _open(self, key_id: str) -> memoryview:
        """One signed 64-bit integer: nanoseconds of the monotonic clock, which all processes of a machine share."""
        if self._folder is None:
            return memoryview(bytearray(_SIZE_BYTES)).cast("q")
        descriptor = os.open(self._folder / f"rate-limit-{key_id}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE_BYTES)
            return memoryview(mmap.mmap(descriptor, _SIZE_BYTES)).cast("q")
        finally:
            os.close(descriptor)


def _take(cell: memoryview, rate: Rate) -> float:
    now = time.monotonic_ns()
    after = max(cell[0], now) + rate.interval_ns
    ahead = after - now - rate.burst * rate.interval_ns
    if ahead > 0:
        return ahead / 1e9
    cell[0] = after
    return 0.0
