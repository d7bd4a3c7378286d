"""How long a request may still take."""

from __future__ import annotations

import math
import time

from service.settings import BudgetSettings

ENVOY_HEADER = b"x-envoy-expected-rq-timeout-ms"


class Deadline:
    """A point on the ``time.perf_counter`` clock; infinitely far where nothing bounds the request."""

    __slots__ = ("_at",)

    def __init__(self, at: float) -> None:
        """``at`` in seconds of ``time.perf_counter()``, ``math.inf`` for no bound."""
        self._at = at

    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self._at - time.perf_counter()

    def passed(self) -> bool:
        """Whether no time is left."""
        return time.perf_counter() >= self._at


def deadline_of(arrival: float, *, budget_ms: float | None, header: str, settings: BudgetSettings) -> Deadline:
    """The earliest of what the body, the proxy and the configuration ask for, counted from the request's arrival.

    Args:
        arrival: ``time.perf_counter()`` at arrival, so that time in the queue is inside the budget.
        budget_ms: validated ``budget_ms`` of the body.
        header: value of ``x-envoy-expected-rq-timeout-ms``, empty where there is none. It comes from a proxy, not from
            the client, so a value that is no positive number is passed over instead of failing the request.
    """
    bounds = [bound for bound in (budget_ms, _milliseconds(header)) if bound is not None]
    if not bounds and settings.default_ms is not None:
        bounds = [settings.default_ms]
    if not bounds:
        return Deadline(math.inf)
    return Deadline(arrival + (min(bounds) - settings.reserve_ms) / 1000.0)


def _milliseconds(header: str) -> float | None:
    if not (header.isascii() and header.isdigit()) or len(header) > 9:
        return None
    return float(header) or None
