"""Pauses and the budget of retries."""

from __future__ import annotations

import threading

import pytest

from service.client.retries import Retries, RetryBudget


def test_pauses_are_anything_up_to_a_bound_that_doubles() -> None:
    retries = Retries(first_pause_ms=10, longest_pause_ms=35)
    for num_attempts, bound_s in ((1, 0.010), (2, 0.020), (3, 0.035), (50, 0.035)):
        pauses = [retries.pause_s(num_attempts) for _ in range(1000)]
        assert 0 <= min(pauses) < 0.1 * bound_s
        assert 0.9 * bound_s < max(pauses) <= bound_s


def test_ten_calls_earn_one_retry_and_no_more_than_the_reserve_is_kept() -> None:
    budget = RetryBudget(Retries(share=0.125, reserve=3))
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    for _ in range(8):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


def test_without_share_and_reserve_nothing_is_retried() -> None:
    budget = RetryBudget(Retries(share=0, reserve=0))
    budget.earn()
    assert not budget.spend()


def test_threads_never_spend_more_than_there_is() -> None:
    budget = RetryBudget(Retries(reserve=100))
    spent: list[bool] = []
    threads = [threading.Thread(target=lambda: spent.extend(budget.spend() for _ in range(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(spent) == 100


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("max_attempts", 0, "max_attempts: must be at least 1, got 0"),
        ("reserve", -1, "reserve: must be at least 0, got -1"),
        ("share", -0.1, "share: must be at least 0, got -0.1"),
        ("longest_pause_ms", -1, "longest_pause_ms: must be at least 0, got -1"),
        ("first_pause_ms", -5.0, "first_pause_ms: must be at least 0, got -5.0"),
    ],
)
def test_values_that_make_no_sense(field: str, value: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Retries(**{field: value})  # type: ignore[arg-type]
