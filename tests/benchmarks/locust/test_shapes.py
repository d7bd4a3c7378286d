"""How the rate changes over a run."""

from __future__ import annotations

import pytest
from shapes import SHAPES, rate_at


def test_steps_go_up_evenly() -> None:
    assert [rate_at("steps", passed, 100) for passed in (0.0, 0.19, 0.2, 0.5, 0.8, 0.99)] == [20, 20, 40, 60, 100, 100]


def test_a_spike_is_five_times_the_rest() -> None:
    assert [rate_at("spike", passed, 100) for passed in (0.0, 0.39, 0.4, 0.59, 0.6, 0.99)] == [20, 20, 100, 100, 20, 20]


def test_a_soak_rises_and_stays() -> None:
    assert [rate_at("soak", passed, 200) for passed in (0.0, 0.025, 0.05, 0.5, 0.99)] == [1, 100, 200, 200, 200]


def test_there_is_always_some_traffic() -> None:
    assert rate_at("spike", 0.0, 1) == 1


def test_constant_is_locusts_own() -> None:
    assert SHAPES[0] == "constant"
    with pytest.raises(ValueError, match="shape: 'constant' has no rate of its own"):
        rate_at("constant", 0.5, 10)
