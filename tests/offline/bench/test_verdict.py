from __future__ import annotations

import math

import pytest

from offline.bench.answers import OpenResult
from offline.bench.verdict import Point, Question, best_point, late_generator, verdict

ASKED = Question(1000, 10.0)


def result(**changes: float) -> OpenResult:
    """1,000 requests, all answered inside the budget where nothing else is said."""
    base = dict.fromkeys(OpenResult.__dataclass_fields__, 0) | {"requests": 1000, "inside": 1000, "p99_ms": 4.0}
    return OpenResult(**(base | changes))  # type: ignore[arg-type]


def point(rate: float, *, is_quick: bool = False, **changes: float) -> Point:
    of = result(**changes)
    return Point(rate, 2.0 if is_quick else 10.0, is_quick, ASKED.is_met(of), of)


def test_99_of_100_inside_the_budget_hold_and_one_fewer_does_not() -> None:
    assert ASKED.is_met(result(inside=990))
    assert not ASKED.is_met(result(inside=989))


def test_more_degraded_answers_than_allowed_do_not_hold() -> None:
    asked = Question(1000, 10.0, max_degraded=0.05)
    assert asked.is_met(result(degraded=50))
    assert not asked.is_met(result(degraded=51))


def test_the_line_of_a_service_that_holds_a_rate() -> None:
    points = [point(1412.9, degraded=3, status_429=4, inside=996), point(1500.0, inside=500)]
    assert verdict(points, ASKED) == (
        "1,000 candidates inside 10 ms at p99 up to 1,412 requests/s; degraded 0.3%; shed 0.4%"
    )


@pytest.mark.parametrize(
    ("degraded", "requests", "told"),
    [(0, 1000, "0%"), (1, 10_000, "<0.1%"), (999, 1000, "99.9%"), (1000, 1000, "100%")],
)
def test_shares_are_0_and_100_only_where_they_are(degraded: int, requests: int, told: str) -> None:
    line = verdict([point(7.26, requests=requests, inside=requests, degraded=degraded)], ASKED)
    assert line.endswith(f"up to 7.26 requests/s; degraded {told}; shed 0%")


def test_the_line_of_a_service_that_holds_none() -> None:
    points = [point(5.0, p99_ms=23.4, inside=900), point(10.0, p99_ms=80.0, inside=0)]
    assert verdict(points, ASKED) == "1,000 candidates inside 10 ms at p99: not even at 5 requests/s: p99 is 23.4 ms"


def test_every_reason_is_given() -> None:
    counts = {"degraded": 20, "status_429": 500, "status_503": 100, "status_504": 90, "non_200": 700, "failed": 300}
    line = verdict([point(5.0, p99_ms=math.nan, inside=0, **counts)], ASKED)
    assert line.endswith(
        "at 5 requests/s: 2.0% degraded, 50.0% shed (429), 10.0% answered 503, 9.0% answered 504,"
        " 1.0% answered with another error, 30.0% not answered"
    )


def test_short_steps_are_no_evidence() -> None:
    assert best_point([point(20.0, is_quick=True)]) is None
    assert "not known" in verdict([point(20.0, is_quick=True)], ASKED)


def test_a_rate_above_one_that_failed_does_not_count() -> None:
    best = best_point([point(300.0), point(200.0, inside=900), point(100.0)])
    assert best is not None
    assert best.rate == 100.0


def test_a_late_generator_is_named() -> None:
    assert late_generator([point(100.0, lag_p99_ms=0.9)]) is None
    told = late_generator([point(100.0, lag_p99_ms=2.5), point(2000.0, lag_p99_ms=1.5)])
    assert told is not None
    assert "by 2.5 ms at p99 at 100 requests/s" in told
