"""What the measured rates say, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from offline.bench.answers import OpenResult

WANTED_SHARE = 0.99
"""Of the requests, to be answered 200 inside the budget; so p99 is."""
_LAG_MS = 1.0


@dataclass(frozen=True)
class Question:
    """What was asked: whether ``num_candidates`` are scored inside ``budget_ms``, and no larger share of the requests
    than ``max_degraded`` below full scoring."""

    num_candidates: int
    budget_ms: float
    max_degraded: float = 1.0

    def is_met(self, result: OpenResult) -> bool:
        """Whether a rate is held."""
        is_inside = result.share(result.inside) >= WANTED_SHARE
        return is_inside and result.share(result.degraded) <= self.max_degraded


@dataclass(frozen=True)
class Point:
    """One rate that was offered, and whether it was held; ``is_quick`` where only for a moment, to find the range."""

    rate: float
    seconds: float
    is_quick: bool
    holds: bool
    result: OpenResult


def best_point(points: Sequence[Point]) -> Point | None:
    """The highest rate that held, below every one that did not."""
    best = None
    for point in sorted((point for point in points if not point.is_quick), key=lambda point: point.rate):
        if not point.holds:
            break
        best = point
    return best


def verdict(points: Sequence[Point], question: Question) -> str:
    """One line that a person can act on."""
    asked = f"{question.num_candidates:,} candidates inside {question.budget_ms:g} ms at p99"
    best = best_point(points)
    if best is not None:
        of = best.result
        shares = f"degraded {_percent(of.share(of.degraded))}; shed {_percent(of.share(of.status_429))}"
        return f"{asked} up to {_rate(best.rate)} requests/s; {shares}"
    measured = [point for point in points if not point.is_quick]
    if not measured:
        return f"{asked}: not known, no rate was offered for long enough"
    lowest = min(measured, key=lambda point: point.rate)
    return f"{asked}: not even at {_rate(lowest.rate)} requests/s: {_why(lowest.result)}"


def late_generator(points: Sequence[Point]) -> str | None:
    """A warning where the generator was late itself, so that its wait is in the latencies; None where it was not."""
    late = [point for point in points if point.result.lag_p99_ms > _LAG_MS]
    if not late:
        return None
    lag, rate = max((point.result.lag_p99_ms, point.rate) for point in late)
    return (
        f"the load generator was late itself, by {lag:.1f} ms at p99 at {_rate(rate)} requests/s, and that counts as"
        " the service's latency; give it a core of its own"
    )


def _why(result: OpenResult) -> str:
    reasons = [] if math.isnan(result.p99_ms) else [f"p99 is {result.p99_ms:.3g} ms"]
    other = result.non_200 - result.status_429 - result.status_503 - result.status_504
    counts = {
        "degraded": result.degraded,
        "shed (429)": result.status_429,
        "answered 503": result.status_503,
        "answered 504": result.status_504,
        "answered with another error": other,
        "not answered": result.failed,
    }
    reasons += [f"{_percent(result.share(count))} {name}" for name, count in counts.items() if count]
    return ", ".join(reasons)


def _percent(share: float) -> str:
    """To a tenth; 0 only where it is none at all, 100 where it is all."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def _rate(rate: float) -> str:
    return f"{math.floor(rate):,}" if rate >= 10 else f"{rate:.3g}"
