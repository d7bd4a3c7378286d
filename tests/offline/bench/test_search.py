from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from offline.bench.search import LOWEST_RATE, Step, search, sweep

SECONDS = 10.0


def drive(steps: Generator[Step, bool, None], holds: Callable[[Step], bool]) -> list[tuple[Step, bool]]:
    done: list[tuple[Step, bool]] = []
    step = next(steps)
    while True:
        done.append((step, holds(step)))
        try:
            step = steps.send(done[-1][1])
        except StopIteration:
            return done


@pytest.mark.parametrize("capacity", [5.0, 7.3, 40.0, 411.0, 5000.0])
def test_the_rate_found_is_close_to_the_capacity_and_held_at_full_length(capacity: float) -> None:
    done = drive(search(SECONDS), lambda step: step.rate <= capacity)
    full = [(step.rate, held) for step, held in done if step.seconds == SECONDS]
    best = max(rate for rate, held in full if held)
    assert capacity / 1.05 <= best <= capacity
    assert min(rate for rate, held in full if not held) <= best * 1.05
    assert done[-1][0].left_s == 0
    assert all(step.is_quick == (step.seconds < SECONDS) for step, _ in done)


def test_a_service_that_does_not_hold_the_lowest_rate_is_asked_twice_and_no_more() -> None:
    done = drive(search(SECONDS), lambda _: False)
    assert [(step.rate, step.is_quick) for step, _ in done] == [(LOWEST_RATE, True), (LOWEST_RATE, False)]


def test_a_short_step_that_fails_by_chance_is_repeated_and_the_ramp_goes_on() -> None:
    done = drive(search(SECONDS), lambda step: step.rate <= 100 and not (step.is_quick and step.rate == 20))
    assert max(step.rate for step, held in done if held and not step.is_quick) == pytest.approx(100, rel=0.05)


def test_short_steps_that_flatter_are_not_believed() -> None:
    """Every short step up to 80 holds, but for longer nothing above 12 does."""
    done = drive(search(SECONDS), lambda step: step.rate <= (80 if step.is_quick else 12))
    assert max(step.rate for step, held in done if held and not step.is_quick) == pytest.approx(12, rel=0.05)


def test_flattered_to_the_lowest_rate_the_search_ends() -> None:
    done = drive(search(SECONDS), lambda step: step.is_quick and step.rate <= 80)
    last, _ = done[-1]
    assert (last.rate, last.is_quick) == (LOWEST_RATE, False)


def test_the_time_left_is_told_from_the_bisection_on() -> None:
    done = drive(search(SECONDS), lambda step: step.rate <= 90)
    full = [step for step, _ in done if not step.is_quick]
    for number, step in enumerate(full[1:], start=2):
        # The rate that the ramp left unconfirmed may need a step or not; that is all that is unknown.
        assert abs(step.left_s - SECONDS * (len(full) - number)) <= SECONDS
    assert all(step.left_s > 0 for step, _ in done[:-1])


def test_given_rates_are_offered_in_their_order_whatever_holds() -> None:
    done = drive(sweep([300.0, 100.0], SECONDS), lambda _: False)
    assert [step for step, _ in done] == [Step(300.0, SECONDS, SECONDS), Step(100.0, SECONDS, 0.0)]
