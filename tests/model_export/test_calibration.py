"""Fitting the maps and measuring the levels, on scores whose relation is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.calibration import MAX_KNOTS, ScoredList, build_ladder, fit_calibration, quality
from ranktower.ladder import check_ladder

Scores = NDArray[np.float32]
RANDOM = np.random.default_rng(0)


def floats(values: object) -> Scores:
    return np.asarray(values, dtype=np.float32)


def test_the_map_is_the_relation_of_the_two_scores() -> None:
    scores = floats(RANDOM.normal(size=50_000))
    full = floats(np.exp(scores) + RANDOM.normal(size=len(scores)))
    calibration = fit_calibration(scores, full)
    asked = floats(np.linspace(-2, 2, 41))
    np.testing.assert_allclose(calibration.apply(asked), np.exp(asked), atol=0.25)
    assert len(calibration.inputs) <= MAX_KNOTS


def test_groups_that_do_not_increase_are_pooled_to_their_mean() -> None:
    """Six groups of one: 4 and 2 are pooled to 3 at 1.5, and then 6, 6 and 3 to 5 at 4."""
    calibration = fit_calibration(floats([0, 1, 2, 3, 4, 5]), floats([1, 4, 2, 6, 6, 3]))
    assert calibration.inputs == (0.0, 1.5, 4.0)
    assert calibration.outputs == (1.0, 3.0, 5.0)


def test_equal_scores_are_one_point() -> None:
    """Of groups with one mean score none can lie behind the other; theirs is 2 at a score of 1."""
    calibration = fit_calibration(floats([1, 1, 1, 2]), floats([1, 2, 3, 7]))
    assert (calibration.inputs, calibration.outputs) == ((1.0, 2.0), (2.0, 7.0))


@pytest.mark.parametrize("scores", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_a_level_that_says_nothing_keeps_its_order_around_the_mean(scores: list[float]) -> None:
    calibration = fit_calibration(floats(scores), floats([9, 7, 5, 3]))
    mapped = calibration.apply(floats([-10, 0, 10]))
    assert (np.diff(mapped) > 0).all()
    np.testing.assert_allclose(mapped, 6.0, atol=0.1)


def test_quality_against_labels_and_against_full_scoring() -> None:
    """Full scoring puts items 0 and 1 first, the level 0 and 2; item 2 is the only one that the user liked."""
    one = ScoredList(labels=floats([0, 0, 2, 0]), full=floats([4, 3, 2, 1]), maxsim=floats([]), pooled=floats([]))
    ndcg, recall, ndcg_to_full, recall_to_full = quality(one, floats([9, 1, 8, 0]), k=2)
    second = 1 / np.log2(3)
    assert (ndcg, recall) == (pytest.approx(second), 1.0)
    assert (ndcg_to_full, recall_to_full) == (pytest.approx(1 / (1 + second)), 0.5)


def users(num_users: int, num_items: int, *, offset: float) -> list[ScoredList]:
    """Full scores, maxsim with some noise and pooled with more; ``offset`` spreads the users' own levels."""
    lists = []
    for _ in range(num_users):
        full = RANDOM.normal(size=num_items)
        full += offset * RANDOM.normal()
        level = full - full.mean()
        maxsim, pooled = (0.1 * (level + noise * RANDOM.normal(size=num_items)) for noise in (0.3, 1.0))
        labels = RANDOM.random(num_items) < np.exp(level) / 50
        labels[np.argmax(full)] = True
        lists.append(ScoredList(*(floats(array) for array in (labels, full, maxsim, pooled))))
    return lists


def test_a_ladder_of_better_and_worse_levels() -> None:
    ladder = build_ladder(users(60, 200, offset=0.0), k=20, shares=(0.5, 0.25, 0.1))
    check_ladder(ladder)
    assert [level.share for level in ladder] == [1.0, 0.5, 0.25, 0.1, 0.0, 0.0]
    assert {(level.k, level.num_users, level.num_candidates) for level in ladder} == {(20, 30, 200)}
    assert (ladder[0].ndcg_to_full, ladder[0].recall_to_full) == (1.0, 1.0)
    for better, worse in pairwise(ladder):
        assert better.recall_to_full >= worse.recall_to_full
        assert better.ndcg_to_full >= worse.ndcg_to_full
    assert ladder[-1].recall_to_full > 20 / 200  # chance


def test_a_share_in_full_loses_nothing_where_users_differ_in_their_level() -> None:
    """Maps are fitted on all users together, so they know nothing of the level of one."""
    _, quarter, maxsim, _ = build_ladder(users(60, 200, offset=5.0), k=20, shares=(0.25,))
    assert quarter.recall_to_full > maxsim.recall_to_full
    assert quarter.recall_to_full > 0.95


def test_half_of_the_users_fit_and_the_other_half_is_measured() -> None:
    """The measured half scores the other way round, which the map cannot know."""
    lists = users(10, 50, offset=0.0)
    lists[1::2] = [ScoredList(one.labels, one.full, -one.maxsim, one.pooled) for one in lists[1::2]]
    maxsim = build_ladder(lists, k=10, shares=())[1]
    assert maxsim.calibration is not None
    assert maxsim.calibration.outputs[0] < 0 < maxsim.calibration.outputs[-1]
    assert maxsim.recall_to_full < 0.1
