"""When a call is tried again, and how often all calls together."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How calls that failed are tried again. Scoring changes nothing, so a call may be sent twice."""

    max_attempts: int = 3
    """Of one call, the first included; 1 retries nothing."""
    first_pause_ms: float = 10.0
    """The longest pause before the second attempt; it doubles with each further one."""
    longest_pause_ms: float = 1000.0
    share: float = 0.1
    """Retries that calls earn: with 0.1, a client's retries are at most one in ten calls, in the long run."""
    reserve: int = 10
    """Retries that a client may make before it has earned any; what it can have saved at most."""

    def __post_init__(self) -> None:
        """ValueError names the field and its value."""
        for name in ("max_attempts", "first_pause_ms", "longest_pause_ms", "share", "reserve"):
            value, least = getattr(self, name), 1 if name == "max_attempts" else 0
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")

    def pause_s(self, num_attempts: int) -> float:
        """A random one behind so many attempts, from 0 to the longest: clients that failed together do not come back
        together."""
        longest_ms = min(self.longest_pause_ms, self.first_pause_ms * 2 ** (num_attempts - 1))
        return random.uniform(0, longest_ms) / 1000


class RetryBudget:
    """What all calls of one client may retry. A fleet whose every request fails would else send each of them
    ``max_attempts`` times, to a service that is in trouble already."""

    def __init__(self, retries: Retries) -> None:
        """Begins with the whole reserve."""
        self._share, self._reserve = retries.share, float(retries.reserve)
        self._left = self._reserve
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call begins."""
        with self._lock:
            self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
