"""The search, on functions whose best value is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ranktower.errors import ConfigError, DivergedError
from ranktower.training.tuning import SearchRange, TuningOptions, tune

SPACE = {
    "x": SearchRange(low=0.01, high=10.0, log=True),
    "heads": SearchRange(low=2, high=10),
    "hidden": SearchRange(choices=((64,), (128, 64))),
}
BASE = {"x": 1.0, "heads": 4, "hidden": [128, 64]}
OPTIONS = TuningOptions(num_trials=6, startup_trials=2, warmup_validations=0, seed=3)


def _value(values: Mapping[str, Any]) -> float:
    return -abs(values["x"] - 2) + 0.1 * values["heads"] + len(values["hidden"])


def _objective(values: Mapping[str, Any], report: Callable[[list[float]], None]) -> float:
    report([_value(values) - 1])
    report([_value(values) - 1, _value(values)])
    return _value(values)


def test_the_first_trial_is_the_base_and_all_lie_in_the_space(tmp_path: Path) -> None:
    trials = tune(_objective, SPACE, BASE, OPTIONS, storage=tmp_path / "s.sqlite")
    assert [trial.number for trial in trials] == list(range(6))
    assert trials[0].params == BASE
    assert trials[0].value == pytest.approx(_value(BASE))
    for trial in trials:
        assert 0.01 <= trial.params["x"] <= 10
        assert trial.params["heads"] in range(2, 11)
        assert trial.params["hidden"] in ([64], [128, 64])
    assert len({str(trial.params) for trial in trials}) == 6


def test_a_killed_search_ends_like_one_that_was_not(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    calls = []

    def killed(values: Mapping[str, Any], report: Callable[[list[float]], None]) -> float:
        calls.append(dict(values))
        if len(calls) == 4:
            raise KilledError
        return _objective(values, report)

    whole = tune(_objective, SPACE, BASE, OPTIONS, storage=tmp_path / "whole.sqlite")
    with pytest.raises(KilledError):
        tune(killed, SPACE, BASE, OPTIONS, storage=tmp_path / "killed.sqlite")
    resumed = tune(killed, SPACE, BASE, OPTIONS, storage=tmp_path / "killed.sqlite")
    assert [(of.params, of.value, of.pruned) for of in resumed] == [(of.params, of.value, of.pruned) for of in whole]
    assert calls[3] == calls[4]
    assert len(calls) == 7


def test_a_trial_below_the_median_is_pruned(tmp_path: Path) -> None:
    ended = []

    def falling(values: Mapping[str, Any], report: Callable[[list[float]], None]) -> float:
        height = -float(len(ended))
        ended.append(False)
        report([height])
        report([height, height])
        ended[-1] = True
        return height

    trials = tune(falling, SPACE, BASE, OPTIONS, storage=tmp_path / "s.sqlite")
    assert ended[:2] == [True, True]
    assert [trial.pruned for trial in trials] == [not whole for whole in ended]
    assert any(trial.pruned for trial in trials)
    assert [trial.value for trial in trials] == [-float(place) for place in range(6)]


def test_a_trial_that_diverges_counts_as_pruned(tmp_path: Path) -> None:
    calls = []

    def diverging(values: Mapping[str, Any], report: Callable[[list[float]], None]) -> float:
        calls.append(values)
        if len(calls) == 1:
            raise DivergedError("the loss of step 1 is not finite")
        if len(calls) == 3:
            report([0.5])
            raise DivergedError("the loss of step 9 is not finite")
        return _objective(values, report)

    trials = tune(diverging, SPACE, BASE, OPTIONS, storage=tmp_path / "s.sqlite")
    assert len(calls) == len(trials) == OPTIONS.num_trials
    assert [(trial.value, trial.pruned) for trial in trials[:3:2]] == [(None, True), (0.5, True)]
    assert not trials[1].pruned


@pytest.mark.parametrize(("name", "value"), [("x", 11.0), ("heads", 1), ("hidden", [32]), ("x", None)])
def test_a_base_outside_the_space_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"the base value of {name} is outside its range, got"):
        tune(_objective, SPACE, BASE | {name: value}, OPTIONS, storage=tmp_path / "s.sqlite")


@pytest.mark.parametrize("given", [{}, {"low": 1}, {"low": 1, "high": 2, "choices": (1,)}])
def test_a_range_is_choices_or_two_ends(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a range has choices, or low and high"):
        SearchRange(**given)
