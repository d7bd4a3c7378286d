"""Estimates: seeded by two points, corrected by what is seen, and not thrown off by one interruption."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from service.costs import CostLine, Costs


def taught(line: CostLine, *, seconds: float, times: int = 200) -> CostLine:
    for _ in range(times):
        line.learn(1000, seconds)
    return line


def test_the_first_estimate_is_the_line_of_the_warm_up_with_a_fifth_on_top() -> None:
    line = CostLine(1e-4, 1e-6)
    assert line.seconds(1000) == pytest.approx(1.2 * 1.1e-3)
    assert line.seconds(0) == pytest.approx(1.2e-4)


def test_what_is_always_the_same_is_estimated_exactly_at_every_size() -> None:
    line = taught(CostLine(1e-4, 1e-6), seconds=2.2e-3)
    assert line.seconds(1000) == pytest.approx(2.2e-3, rel=1e-2)
    assert line.seconds(5000) == pytest.approx(2 * 5.1e-3, rel=1e-2)


def test_what_varies_is_estimated_above_its_mean() -> None:
    line = CostLine(0.0, 1e-6)
    for _ in range(200):
        line.learn(1000, 0.5e-3)
        line.learn(1000, 1.5e-3)
    assert 1.3e-3 < line.seconds(1000) < 1.7e-3


def test_one_interruption_counts_as_at_most_three_times_as_slow_and_is_forgotten() -> None:
    line = taught(CostLine(0.0, 1e-6), seconds=1e-3)
    line.learn(1000, 10.0)
    assert line.seconds(1000) == pytest.approx(1.4e-3, rel=0.01)
    assert taught(line, seconds=1e-3).seconds(1000) == pytest.approx(1e-3, rel=0.01)


def test_a_machine_that_became_ten_times_slower_is_known_within_some_twenty_requests() -> None:
    line = taught(CostLine(0.0, 1e-6), seconds=1e-3)
    assert taught(line, seconds=1e-2, times=20).seconds(1000) > 0.9e-2


def test_affordable_is_the_inverse_of_seconds() -> None:
    line = CostLine(1e-4, 1e-6)
    assert line.affordable(line.seconds(700)) in {699, 700}
    assert line.affordable(1e-5) <= 0


def test_a_slow_spell_is_forgotten_where_the_work_is_not_done_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a level that was once too slow to be chosen would never be tried again."""
    now = 1000.0
    monkeypatch.setattr("service.costs.time", SimpleNamespace(perf_counter=lambda: now))
    line = taught(CostLine(0.0, 1e-6), seconds=1e-3)
    taught(line, seconds=1e-2, times=10)
    slow = line.seconds(1000)
    assert slow > 5e-3
    now += 1.0
    after_1_s = line.seconds(1000)
    now += 9.0
    assert line.seconds(1000) < 2e-3
    assert line.seconds(1000) < after_1_s < slow


def test_the_time_of_a_block_is_learned_unless_it_fails() -> None:
    line = CostLine(1.0, 0.0)
    with line.timed(1):
        pass
    learned = line.seconds(1)
    assert learned < 1.2
    with pytest.raises(ValueError, match="broken"), line.timed(1):
        raise ValueError("broken")
    assert line.seconds(1) == pytest.approx(learned, rel=1e-3)


def test_a_release_without_a_ladder_has_nothing_below_full_scoring() -> None:
    full = CostLine(0.0, 1e-6)
    costs = Costs({("full", "projected"): full, "answer": CostLine(0.0, 1e-7)})
    assert costs.least_line is costs.full_line is full


def test_of_two_kinds_of_rows_the_dearer_one_is_expected() -> None:
    lines = {("full", "projected"): CostLine(0.0, 1e-6), ("full", "embedding"): CostLine(0.0, 2e-6)}
    lower = {"maxsim": CostLine(0.0, 2e-7), "pooled": CostLine(0.0, 1e-7)}
    other = {"find": CostLine(0.0, 1e-7), "answer": CostLine(0.0, 2e-7)}
    costs = Costs({**lines, **lower, **other})
    assert costs.full_line is lines["full", "embedding"]
    assert costs.least_line is lower["pooled"]
    assert costs.line(("full", "projected")) is lines["full", "projected"]
    assert costs.sum_s({"find": 1000, "answer": 500}) == pytest.approx(1.2 * 2e-4, rel=0.05)
    assert costs.sum_s({}) == 0.0
