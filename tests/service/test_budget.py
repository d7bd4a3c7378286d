"""Deadlines: which bound holds, and from when it counts."""

from __future__ import annotations

import math
import time

import pytest

from service.budget import Deadline, deadline_of
from service.settings import BudgetSettings


def remaining_ms(
    budget_ms: float | None, header: str, *, waited_ms: float = 0.0, reserve_ms: float = 0.0, **more: float
) -> float:
    settings = BudgetSettings(reserve_ms=reserve_ms, **more)
    arrival = time.perf_counter() - waited_ms / 1000
    return deadline_of(arrival, budget_ms=budget_ms, header=header, settings=settings).remaining_s() * 1000


@pytest.mark.parametrize(
    ("budget_ms", "header", "expected"),
    [
        (500.0, "", 500),
        (None, "700", 700),
        (500.0, "700", 500),
        (700.0, "500", 500),
        (None, "0", math.inf),
        (None, "", math.inf),
        (None, "12.5", math.inf),
        (None, "-5", math.inf),
        (None, "٣", math.inf),
        (None, "9" * 500, math.inf),
        (500.0, "soon", 500),
    ],
)
def test_the_smaller_bound_holds(budget_ms: float | None, header: str, expected: float) -> None:
    assert remaining_ms(budget_ms, header) == pytest.approx(expected, abs=50)


def test_a_default_holds_only_where_nothing_else_does() -> None:
    assert remaining_ms(None, "", default_ms=300.0) == pytest.approx(300, abs=50)
    assert remaining_ms(900.0, "", default_ms=300.0) == pytest.approx(900, abs=50)
    assert remaining_ms(None, "900", default_ms=300.0) == pytest.approx(900, abs=50)


def test_time_in_the_queue_and_the_reserve_count() -> None:
    assert remaining_ms(500.0, "", waited_ms=200.0, reserve_ms=100.0) == pytest.approx(200, abs=50)
    assert remaining_ms(500.0, "", waited_ms=600.0) < 0


def test_passed() -> None:
    assert not Deadline(math.inf).passed()
    assert Deadline(time.perf_counter() - 1).passed()
    assert not Deadline(time.perf_counter() + 60).passed()
