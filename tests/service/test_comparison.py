"""Two releases' scores side by side: values from the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from service.comparison import compare

NAN = float("nan")


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_same_scores_agree_in_everything() -> None:
    found = compare(scores(3, 1, 2, 2), scores(3, 1, 2, 2))
    assert found is not None
    assert (found.overlap, found.rank_correlation) == (1.0, 1.0)
    assert (found.mean_difference, found.mean_absolute_difference) == (0.0, 0.0)


def test_a_monotone_change_keeps_the_order_and_shows_as_drift() -> None:
    found = compare(scores(1, 2, 3, 4), scores(2, 3, 5, 6))
    assert found is not None
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.mean_difference == pytest.approx((1 + 1 + 2 + 2) / 4)
    opposite = compare(scores(1, 2, 3), scores(3, 2, 1))
    assert opposite is not None
    assert opposite.rank_correlation == pytest.approx(-1.0)
    assert (opposite.mean_difference, opposite.mean_absolute_difference) == pytest.approx((0.0, 4 / 3))


def test_the_rank_correlation_by_hand_with_ties() -> None:
    # Mean ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5: deviations -1.5, 0, 0, 1.5 and -0.5, -1.5, 1, 1.
    found = compare(scores(1, 2, 2, 3), scores(5, 4, 9, 9))
    assert found is not None
    assert found.rank_correlation == pytest.approx((0.75 + 1.5) / np.sqrt(4.5 * 4.5))


def test_without_a_spread_there_is_no_rank_correlation() -> None:
    found = compare(scores(1, 1, 1), scores(1, 2, 3))
    assert found is not None
    assert found.rank_correlation is None
    one = compare(scores(1), scores(2))
    assert one is not None
    assert (one.overlap, one.rank_correlation, one.mean_difference) == (None, None, 1.0)


def test_the_overlap_is_of_the_first_hundred() -> None:
    served = np.arange(400, 0, -1, dtype=np.float32)
    other = np.roll(served, 40)  # the first 40 of the other are the last 40 of the served
    found = compare(served, other)
    assert found is not None
    assert found.overlap == pytest.approx(60 / 100)


@pytest.mark.parametrize(("num_candidates", "k"), [(2, 1), (7, 3), (100, 50), (199, 99), (200, 100), (1000, 100)])
def test_of_a_short_list_it_is_of_the_first_half(num_candidates: int, k: int) -> None:
    served = np.arange(num_candidates, 0, -1, dtype=np.float32)
    turned = compare(served, served[::-1].copy())
    assert turned is not None
    assert turned.overlap == 0  # the two halves have nothing in common
    rotated = compare(served, np.roll(served, 1))  # one comes in front, and the k-th falls out
    assert rotated is not None
    assert rotated.overlap == pytest.approx((k - 1) / k)


def test_what_neither_side_scores_is_no_part_of_the_list() -> None:
    found = compare(scores(4, 3, 2, 1, *[NAN] * 300), scores(3, 4, 1, 2, *[NAN] * 300))
    assert found is not None
    assert found.overlap == 1.0  # of the first two


def test_a_candidate_that_one_side_cannot_score_counts_in_the_overlap_alone() -> None:
    found = compare(scores(1, 2, 3, NAN), scores(1, 2, NAN, 4))
    assert found is not None
    assert (found.rank_correlation, found.mean_difference) == (pytest.approx(1.0), 0.0)
    assert found.overlap == pytest.approx(2 / 4)


def test_nothing_in_common_is_no_comparison() -> None:
    assert compare(scores(1, NAN), scores(NAN, 1)) is None
    assert compare(scores(), scores()) is None
