"""Whether a run kept its thresholds, and its line."""

from __future__ import annotations

from typing import Any

import pytest
from outcomes import Outcome, OutcomeName, Tally
from thresholds import Thresholds, report

from ranktower.errors import ConfigError


def tally(*, lag_ms: float = 0.1, **counts: int) -> Tally:
    counted = Tally()
    names: tuple[OutcomeName, ...] = ("ok", "degraded", "shed", "out_of_time", "failed")
    # 20 ms lie in the bucket that ends at 1.01^302 = 20.19.
    for name in names:
        outcome = Outcome(name, "500 internal_error" if name == "failed" else "", name == "ok", name == "ok")
        for _ in range(counts.get(name, 0)):
            counted.add(outcome, latency_ms=20.0, lag_ms=lag_ms)
    return counted


def test_without_thresholds_all_is_well() -> None:
    assert Thresholds().broken(tally(ok=1, failed=9)) == []


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"p99_ms": 10.0}, ["p99 20.2 ms: above --max-p99-ms 10"]),
        ({"failures": 0.05}, ["failed 10.00%: above --max-failures 0.05"]),
        ({"degraded": 0.05}, ["degraded 10.00%: above --max-degraded 0.05"]),
        ({"shed": 0.0}, ["shed 10.00%: above --max-shed 0"]),
        ({"out_of_time": 0.0}, ["out of time 10.00%: above --max-out-of-time 0"]),
        ({"p99_ms": 21.0, "failures": 0.1, "degraded": 0.1, "shed": 0.1, "out_of_time": 0.1}, []),
    ],
)
def test_what_is_above_a_threshold_is_named(limits: dict[str, float], told: list[str]) -> None:
    assert Thresholds(**limits).broken(tally(ok=6, degraded=1, shed=1, out_of_time=1, failed=1)) == told


def test_a_run_without_a_request_is_never_well() -> None:
    assert Thresholds().broken(Tally()) == ["no request was sent"]


def test_a_run_in_which_nobody_waited_has_no_p99_to_be_well_with() -> None:
    assert Thresholds(p99_ms=10.0).broken(tally(shed=5)) == ["p99 nan ms: above --max-p99-ms 10"]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"p99_ms": 0.0}, "--max-p99-ms 0: must be above 0"),
        ({"shed": 1.5}, "--max-shed 1.5: must be a share, 0 to 1"),
        ({"out_of_time": -1.0}, "--max-out-of-time -1: must be a share, 0 to 1"),
    ],
)
def test_a_threshold_that_cannot_be_is_named(limits: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Thresholds(**limits)
    assert str(caught.value) == told


def test_the_line_says_it_all() -> None:
    lines = report(tally(ok=6, degraded=1, shed=1, out_of_time=1, failed=1), seconds=5).splitlines()
    assert lines[0].startswith("10 requests, 2.0/s: p50 20.2 ms, p99 20.2 ms; inside the budget 60.00%; degraded")
    assert "429 10.00%, 504 10.00%, failed 10.00%" in lines[0]
    assert lines[1:] == ["failures: 1 × 500 internal_error"]


def test_a_late_generator_is_told() -> None:
    assert "give it a core" in report(tally(ok=9, lag_ms=50.0), seconds=1)
    assert "give it a core" not in report(tally(ok=9, lag_ms=1.0), seconds=1)
