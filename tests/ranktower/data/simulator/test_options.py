"""Options of the simulator: what is refused, and how the text says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ranktower.data.simulator import SimulatorOptions
from ranktower.errors import ConfigError

WHOLE = [field.name for field in dataclasses.fields(SimulatorOptions) if field.type == "int" and field.name != "seed"]


def test_defaults_are_valid_and_frozen() -> None:
    options = SimulatorOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [0, -3, 2.0, "5", None, True])
def test_counts_are_whole_and_positive(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        SimulatorOptions(**{name: value})
    assert str(error.value) == f"simulator option {name} must be a whole number of at least 1, got {value!r}"


@pytest.mark.parametrize("name", ["popularity_exponent", "position_bias", "teacher_noise"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", None, False])
def test_strengths_are_finite_and_not_negative(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        SimulatorOptions(**{name: value})
    assert str(error.value) == f"simulator option {name} must be a finite number of at least 0.0, got {value!r}"


@pytest.mark.parametrize("value", [0.9, 0, float("nan")])
def test_a_user_has_at_least_one_request(value: float) -> None:
    with pytest.raises(ConfigError, match=r"requests_per_user must be a finite number of at least 1\.0, got "):
        SimulatorOptions(requests_per_user=value)


def test_a_negative_seed_is_refused_and_zero_is_not() -> None:
    with pytest.raises(ConfigError, match=r"^simulator option seed must be a whole number of at least 0, got -1$"):
        SimulatorOptions(seed=-1)
    SimulatorOptions(seed=0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_impressions": 15}, "num_impressions = 15 is more than num_ranked = 14"),
        ({"num_ranked": 25}, "num_ranked = 25 is more than num_recalled = 24"),
        ({"num_items": 23}, "num_recalled = 24 is more than num_items = 23"),
    ],
)
def test_no_stage_passes_on_more_than_it_gets(change: dict[str, int], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        SimulatorOptions(**change)  # type: ignore[arg-type]
    assert str(error.value) == f"simulator option {problem}"


def test_equal_stage_sizes_are_fine() -> None:
    SimulatorOptions(num_items=5, num_recalled=5, num_ranked=5, num_impressions=5)
