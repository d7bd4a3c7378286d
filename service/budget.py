"""How long a request may still take."""

from __future__ import annotations

import math
import time

from service.settings import BudgetSettings

ENVOY_HEADER = b"x-envoy-expected-rq-timeout-ms"


class Deadline:
    """Points on the ``time.perf_counter`` clock; infinitely far where nothing bounds the request."""

    __slots__ = ("at", "plan_at")

    def __init__(self, at: float, plan_at: float | None = None) -> None:
        """Both in seconds of ``time.perf_counter()``, ``math.inf`` for no bound; ``plan_at`` is ``at`` by default."""
        self.at = at
        """When the answer must be on its way."""
        self.plan_at = at if plan_at is None else plan_at
        """What work is planned to be done by: earlier, because not everything on the way can be foreseen."""

    @property
    def is_finite(self) -> bool:
        """Whether anything bounds the request."""
        return self.at < math.inf

    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.perf_counter()

    def passed(self) -> bool:
        """Whether no time is left."""
        return time.perf_counter() >= self.at


def deadline_of(arrival: float, *, budget_ms: float | None, header: str, settings: BudgetSettings) -> Deadline:
    """The earliest of what the body, the proxy and the configuration ask for, counted from the request's arrival.

    Args:
        arrival: ``time.perf_counter()`` at arrival, so that time in the queue is inside the budget.
        budget_ms: validated ``budget_ms`` of the body.
        header: value of ``x-envoy-expected-rq-timeout-ms``, empty where there is none. It comes from a proxy, not from
            the client, so a value that is no positive number is passed over instead of failing the request.
        settings: the reserve and the margin that are kept back, and the budget of a request that names none.
    """
    bounds = [bound for bound in (budget_ms, _milliseconds(header)) if bound is not None]
    if not bounds and settings.default_ms is not None:
        bounds = [settings.default_ms]
    if not bounds:
        return Deadline(math.inf)
    left_ms = min(bounds) - settings.reserve_ms
    return Deadline(arrival + left_ms / 1000.0, arrival + left_ms * (1.0 - settings.margin) / 1000.0)


def _milliseconds(header: str) -> float | None:
    if not (header.isascii() and header.isdigit()) or len(header) > 9:
        return None
    return float(header) or None
