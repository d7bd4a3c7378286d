"""What clients saw in a part of a locust run, from its ``--record`` file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_UNAVAILABLE = 503


@dataclass(frozen=True)
class Seen:
    """One request of the record; see ``benchmarks/locust/record.py``.

    Attributes:
        due_s: seconds since 1970.
        is_inside: whether the answer, 200, came within the budget; None without a budget.
        is_waited_for: whether the latency is one that a user waits: of a 200, or of no answer at all.
    """

    due_s: float
    status: int
    outcome: str
    error: str
    is_inside: bool | None
    is_waited_for: bool
    latency_ms: float
    lag_ms: float


def read_record(path: Path) -> list[Seen]:
    """All requests, in the order in which they were due."""
    with path.open(encoding="utf-8", newline="") as file:
        seen = [
            Seen(
                due_s=float(row["due_s"]),
                status=int(row["status"]),
                outcome=row["outcome"],
                error=row["error"],
                is_inside=None if row["inside"] == "" else row["inside"] == "1",
                is_waited_for=row["waited_for"] == "1",
                latency_ms=float(row["latency_ms"]),
                lag_ms=float(row["lag_ms"]),
            )
            for row in csv.DictReader(file)
        ]
    return sorted(seen, key=lambda one: one.due_s)


def between(seen: Sequence[Seen], start_s: float, end_s: float) -> list[Seen]:
    """Those that were due in ``[start_s, end_s)``."""
    return [one for one in seen if start_s <= one.due_s < end_s]


def figures(seen: Sequence[Seen], *, seconds: float) -> dict[str, Any]:
    """Rate, latencies in ms and what came of the requests; a latency is None where nobody waited.

    ``failed`` counts those of 503 as well; ``errors`` are the failures by kind.
    """
    outcomes = Counter(one.outcome for one in seen)
    inside = [one.is_inside for one in seen if one.is_inside is not None]
    waits = [one.latency_ms for one in seen if one.is_waited_for]
    return {
        "requests": len(seen),
        "offered_per_s": round(len(seen) / seconds, 1),
        "p50_ms": _percentile(waits, 50),
        "p99_ms": _percentile(waits, 99),
        "max_ms": _percentile(waits, 100),
        "inside_share": round(sum(inside) / len(inside), 4) if inside else None,
        "degraded": outcomes["degraded"],
        "status_429": outcomes["shed"],
        "status_503": sum(one.status == _UNAVAILABLE for one in seen),
        "status_504": outcomes["out_of_time"],
        "failed": outcomes["failed"],
        "errors": dict(Counter(one.error for one in seen if one.error)),
        "lag_p99_ms": _percentile([one.lag_ms for one in seen], 99),
    }


def windows(seen: Sequence[Seen], *, window_s: float) -> list[dict[str, Any]]:
    """``figures`` of one window after the other, each with its ``start_s`` from the first request on. The last one is
    left out where it is not whole."""
    first_s, found = seen[0].due_s, []
    for number in range(int((seen[-1].due_s - first_s) / window_s)):
        start_s = number * window_s
        part = between(seen, first_s + start_s, first_s + start_s + window_s)
        found.append({"start_s": start_s, **figures(part, seconds=window_s)})
    return found


def last_failure_s(seen: Sequence[Seen], start_s: float, end_s: float) -> float | None:
    """When, after ``start_s``, the last request was due that failed; None where none did."""
    failed = [one.due_s for one in between(seen, start_s, end_s) if one.outcome == "failed"]
    return round(max(failed) - start_s, 2) if failed else None


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 2) if values else None
