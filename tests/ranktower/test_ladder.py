"""The ladder's levels, the maps between their scales, and what no ladder can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ranktower.ladder import Calibration, Ladder, LadderLevel, check_ladder, mix

LINE = Calibration(inputs=(0.0, 1.0), outputs=(0.0, 1.0))


def floats(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def level(**changes: Any) -> LadderLevel:
    keys: dict[str, Any] = {"level": "full", "share": 1.0, "ndcg": 0.2, "recall": 0.3, "ndcg_to_full": 1.0}
    keys |= {"recall_to_full": 1.0, "k": 10, "num_users": 5, "num_candidates": 50}
    return LadderLevel.model_validate(keys | changes)


def ladder(*shares: float) -> list[LadderLevel]:
    lower = [level(level=name, share=0.0, calibration=LINE) for name in ("maxsim", "pooled")]
    return [level(), *(level(level="full_best", share=share) for share in shares), *lower]


def test_between_its_points_a_calibration_is_linear_and_its_ends_go_on() -> None:
    calibration = Calibration(inputs=(0.0, 1.0, 3.0), outputs=(10.0, 12.0, 13.0))
    # Slopes 2 and 1/2: at -4, 10 - 2 * 4; at 7, 13 + 4 / 2.
    mapped = calibration.apply(floats(-4.0, 0.0, 0.25, 1.0, 2.0, 3.0, 7.0))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, floats(2.0, 10.0, 10.5, 12.0, 12.5, 13.0, 15.0))


def test_what_is_no_number_stays_none() -> None:
    np.testing.assert_array_equal(LINE.apply(floats(np.nan, 0.5, np.nan)), floats(np.nan, 0.5, np.nan))
    assert LINE.apply(floats()).shape == (0,)


def test_a_calibration_keeps_the_order_and_makes_no_ties() -> None:
    random = np.random.default_rng(0)
    inputs, outputs = (np.cumsum(random.uniform(0.05, 1.0, 64)) for _ in range(2))
    calibration = Calibration(inputs=tuple(inputs), outputs=tuple(outputs))
    scores = np.sort(random.uniform(inputs[0] - 50, inputs[-1] + 50, 1000)).astype(np.float32)
    assert (np.diff(scores) > 0).all()
    assert (np.diff(calibration.apply(scores)) > 0).all()


def test_the_same_points_are_the_same_calibration() -> None:
    again = Calibration.model_validate_json(LINE.model_dump_json())
    LINE.apply(floats(1.0))  # keeps its arrays
    assert again == LINE


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"inputs": (1.0, 1.0)}, "inputs: must increase strictly, got 1.0 behind 1.0"),
        ({"outputs": (1.0, 0.5)}, "outputs: must increase strictly, got 0.5 behind 1.0"),
        ({"inputs": (1.0, 2.0, 3.0)}, "inputs and outputs: must be of one length, got 3, 2"),
        ({"inputs": (1.0,)}, "at least 2 items"),
        ({"inputs": (0.0, float("nan"))}, "finite number"),
        ({"outputs": (0.0, float("inf"))}, "finite number"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_no_calibration(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Calibration.model_validate({"inputs": (0.0, 1.0), "outputs": (0.0, 1.0)} | keys)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"share": 0.5}, "share: 0.5 is not possible at level 'full'"),
        ({"level": "full_best", "share": 1.0}, "share: 1.0 is not possible at level 'full_best'"),
        ({"level": "full_best", "share": 0.0}, "share: 0.0 is not possible at level 'full_best'"),
        ({"level": "pooled", "share": 0.1, "calibration": LINE}, "share: 0.1 is not possible at level 'pooled'"),
        ({"level": "maxsim", "share": 0.0}, "calibration: level 'maxsim' has none"),
        ({"calibration": LINE}, "calibration: level 'full' has one"),
        ({"level": "best"}, "level\n  Input should be 'full', 'full_best', 'maxsim' or 'pooled'"),
        ({"ndcg": float("nan")}, "ndcg\n  Input should be a finite number"),
        ({"recall": 1.1}, "recall\n  Input should be less than or equal to 1"),
        ({"k": 0}, "k\n  Input should be greater than or equal to 1"),
        ({"expected": 1}, "Extra inputs are not permitted"),
    ],
)
def test_no_level(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        level(**keys)


@pytest.mark.parametrize("levels", [[], ladder(), ladder(0.5), ladder(0.5, 0.25, 0.1)])
def test_a_ladder(levels: list[LadderLevel]) -> None:
    check_ladder(levels)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (ladder()[:1], "levels must be full, any number of full_best, maxsim, pooled, got full$"),
        (ladder()[::-1], "got pooled, maxsim, full$"),
        (ladder(0.5)[1:], "got full_best, maxsim, pooled$"),
        (ladder(0.1, 0.5), "shares must fall from level to level, got 1.0, 0.1, 0.5, 0.0$"),
        (ladder(0.5, 0.5), "shares must fall from level to level, got 1.0, 0.5, 0.5, 0.0$"),
    ],
)
def test_no_ladder(levels: list[LadderLevel], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_ladder(levels)
    with pytest.raises(ValidationError, match="levels"):
        Ladder(of={}, levels=tuple(levels))


def test_a_mixed_answer_is_on_the_scale_of_what_was_scored_in_full() -> None:
    """A user 3 above the average: candidates 0 and 2 in full give 8 and 6 where the calibration expected 5 and 3."""
    nowhere = np.nan
    calibrated = floats(5.0, 4.0, 3.0, -1.0)
    mixed = mix(floats(8.0, nowhere, 6.0, nowhere), calibrated, np.array([0, 2]))
    np.testing.assert_array_equal(mixed, floats(8.0, 7.0, 6.0, 2.0))
    np.testing.assert_array_equal(calibrated, floats(5.0, 4.0, 3.0, -1.0))


def test_a_broken_row_among_those_in_full_moves_no_other() -> None:
    mixed = mix(floats(np.nan, 3.0, 0.0), floats(np.nan, 2.0, 1.0), np.array([0, 1]))
    np.testing.assert_array_equal(mixed, floats(np.nan, 3.0, 2.0))
    mixed = mix(floats(np.nan, 3.0), floats(np.nan, 2.0), np.array([0]))
    np.testing.assert_array_equal(mixed, floats(np.nan, 2.0))
