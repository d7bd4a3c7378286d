from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

from offline.bench.answers import Answers, OpenResult, rounded


def answers(*entries: tuple[float, float, int, bool]) -> Answers:
    """Of due second, latency in milliseconds, status and whether degraded."""
    due, latency, status, degraded = (np.array(column) for column in zip(*entries, strict=True))
    lag, release = np.full(len(due), 0.25), np.array([b"r-1"] * len(due))
    return Answers(due.astype(float), lag, latency.astype(float), status.astype(np.int16), degraded, release)


MIXED = answers(
    (0.0, 4.0, 200, False),
    (0.5, 10.0, 200, True),
    (1.0, 10.1, 200, True),
    (1.5, 0.2, 429, False),
    (2.0, 0.3, 503, False),
    (2.5, 9.0, 504, False),
    (3.0, 1.0, 500, False),
    (3.5, 500.0, 0, False),
)


def test_each_request_is_counted_under_what_came_of_it() -> None:
    result = OpenResult.of(MIXED, seconds=4.0, budget_ms=10.0)
    assert (result.requests, result.inside, result.degraded) == (8, 2, 2)
    assert (result.status_429, result.status_503, result.status_504, result.non_200, result.failed) == (1, 1, 1, 4, 1)
    assert (result.errors, result.share(result.inside)) == (5, 0.25)
    assert (result.offered_per_s, result.goodput_per_s, result.lag_p99_ms) == (2.0, 0.5, 0.25)
    # Seven answers, the last one inside the four seconds.
    assert result.achieved_per_s == 7 / 4


def test_latencies_are_those_of_good_answers_and_of_waits_for_none() -> None:
    result = OpenResult.of(MIXED, seconds=4.0)
    assert (result.p50_ms, result.max_ms) == (pytest.approx((10.0 + 10.1) / 2), 500.0)
    assert result.inside == 3  # without a budget


def test_answers_after_the_last_due_time_stretch_the_run() -> None:
    late = answers((0.0, 1.0, 200, False), (0.5, 3500.0, 200, False))
    assert OpenResult.of(late, seconds=1.0).achieved_per_s == 2 / 4


def test_only_refusals_have_no_latency_and_null_in_json() -> None:
    result = OpenResult.of(answers((0.0, 0.2, 429, False)), seconds=1.0)
    assert math.isnan(result.p99_ms)
    content = json.dumps(rounded(asdict(result)), allow_nan=False)
    assert json.loads(content)["p99_ms"] is None


def test_rounded_keeps_counts_and_rounds_by_unit() -> None:
    assert rounded({"requests": 7, "offered_per_s": 1.26, "p99_ms": 1.23456}) == {
        "requests": 7,
        "offered_per_s": 1.3,
        "p99_ms": 1.235,
    }


def test_a_part_is_cut_by_due_time() -> None:
    part = MIXED.between(1.0, 2.5)
    assert part.due_s.tolist() == [1.0, 1.5, 2.0]
    assert part.status.tolist() == [200, 429, 503]
    assert part.inside(11.0).tolist() == [True, False, False]


def test_saved_answers_are_read_back(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "answers.npz")
    again = Answers.load(tmp_path / "answers.npz")
    for field in fields(Answers):
        wanted, found = getattr(MIXED, field.name), getattr(again, field.name)
        assert found.dtype == wanted.dtype
        assert (found == wanted).all()
