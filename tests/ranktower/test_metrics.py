"""Expected values come from the definitions in plain loops: ties by averaging over every order of the tied items."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ranktower.metrics import mean_over_users, ndcg_at_k, overlap_at_k, recall_at_k

NAN = float("nan")


def orders(scores: Sequence[float]) -> Iterator[list[int]]:
    """Every order of the scored items that descends by score."""
    scored = [item for item, score in enumerate(scores) if not math.isnan(score)]
    for order in itertools.permutations(scored):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            yield list(order)


def slow_recall(scores: Sequence[float], labels: Sequence[float], k: int) -> float:
    positives = {item for item, label in enumerate(labels) if label > 0}
    if not positives:
        return NAN
    values = [len(positives & set(order[:k])) / len(positives) for order in orders(scores)]
    return sum(values) / len(values)


def slow_ndcg(scores: Sequence[float], labels: Sequence[float], k: int, gain: str = "linear") -> float:
    gains = [label if gain == "linear" else 2**label - 1 for label in labels]
    if not any(gains):
        return NAN

    def dcg(of_rank: Sequence[float]) -> float:
        return sum(g / math.log2(rank + 1) for rank, g in enumerate(of_rank[:k], start=1))

    values = [dcg([gains[item] for item in order]) / dcg(sorted(gains, reverse=True)) for order in orders(scores)]
    return sum(values) / len(values)


@pytest.fixture(params=range(8))
def users(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores from five levels (many ties, some NaN, some infinite), labels 0..3 and a mask, each [12, 6]."""
    rng = np.random.default_rng(request.param)
    scores = rng.choice([-math.inf, -1.0, 0.0, 2.5, math.inf, NAN], p=[0.1, 0.2, 0.3, 0.2, 0.1, 0.1], size=(12, 6))
    labels = rng.choice([0, 0, 1, 2, 3], size=(12, 6)).astype(np.float32)
    mask = rng.random((12, 6)) < 0.85
    mask[0] = False
    return scores, labels, mask


def by_user(users: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Iterator[tuple[list[float], list[float]]]:
    for scores, labels, mask in zip(*users, strict=True):
        yield scores[mask].tolist(), labels[mask].tolist()


@pytest.mark.parametrize("k", [1, 2, 4, 6, 100])
def test_recall_equals_the_mean_over_all_orders(users: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> None:
    scores, labels, mask = users
    expected = [slow_recall(z, y, k) for z, y in by_user(users)]
    np.testing.assert_allclose(recall_at_k(scores, labels, mask=mask, k=k), expected, rtol=1e-12)


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("k", [1, 3, 6, 100])
def test_ndcg_equals_the_mean_over_all_orders(
    users: tuple[np.ndarray, np.ndarray, np.ndarray], k: int, gain: str
) -> None:
    scores, labels, mask = users
    expected = [slow_ndcg(z, y, k, gain) for z, y in by_user(users)]
    np.testing.assert_allclose(ndcg_at_k(scores, labels, mask=mask, k=k, gain=gain), expected, rtol=1e-12, atol=1e-15)


def one(values: Sequence[float]) -> np.ndarray:
    return np.array([values])


def everyone(n: int) -> np.ndarray:
    return np.ones((1, n), dtype=np.bool_)


def test_by_hand() -> None:
    # Order by score: items 2, 0, 1, 3 with labels 0, 2, 1, 1.
    scores, labels, mask = one([0.8, 0.5, 0.9, 0.1]), one([2, 1, 0, 1]), everyone(4)
    assert recall_at_k(scores, labels, mask=mask, k=2).tolist() == [pytest.approx(1 / 3)]
    dcg, ideal = 2 / math.log2(3) + 1 / 2, 2 + 1 / math.log2(3) + 1 / 2
    assert ndcg_at_k(scores, labels, mask=mask, k=3).tolist() == [pytest.approx(dcg / ideal)]
    dcg, ideal = 3 / math.log2(3) + 1 / 2, 3 + 1 / math.log2(3) + 1 / 2
    assert ndcg_at_k(scores, labels, mask=mask, k=3, gain="exponential").tolist() == [pytest.approx(dcg / ideal)]


def test_the_best_and_the_worst_order() -> None:
    labels, mask = one([3, 2, 1, 0, 0, 0]), everyone(6)
    best, worst = one([9.0, 8, 7, 3, 2, 1]), one([1.0, 2, 3, 7, 8, 9])
    for metric in (recall_at_k, ndcg_at_k):
        assert metric(best, labels, mask=mask, k=3) == pytest.approx(1)
        assert metric(worst, labels, mask=mask, k=3) == 0


def test_recall_counts_positives_beyond_k_in_its_denominator() -> None:
    assert recall_at_k(one([3.0, 2, 1]), one([1, 1, 1]), mask=everyone(3), k=2) == pytest.approx(2 / 3)


def test_equal_scores_do_not_flatter_wherever_the_positives_stand() -> None:
    # One positive of five, all scores equal: it is among the first two with probability 2/5.
    for place in range(5):
        labels = np.eye(5)[place : place + 1]
        scores = np.zeros((1, 5), dtype=np.float32)
        assert recall_at_k(scores, labels, mask=everyone(5), k=2) == pytest.approx(2 / 5)
        assert ndcg_at_k(scores, labels, mask=everyone(5), k=2) == pytest.approx((1 + 1 / math.log2(3)) / 5)


def test_masked_places_do_not_count_whatever_they_hold() -> None:
    mask = np.array([[True, True, False]])
    for garbage in (math.inf, NAN, 1e30):
        scores, labels = one([1.0, 2.0, garbage]), one([1.0, 0.0, garbage])
        assert recall_at_k(scores, labels, mask=mask, k=1) == 0
        assert recall_at_k(scores, labels, mask=mask, k=2) == 1
        assert ndcg_at_k(scores, labels, mask=mask, k=2) == pytest.approx(1 / math.log2(3))
        assert overlap_at_k(scores, one([1.0, 2.0, -garbage]), mask=mask, k=1) == 1


def test_an_item_without_a_score_earns_nothing_even_with_room_left() -> None:
    scores, labels, mask = one([NAN, -math.inf, NAN]), one([1, 1, 0]), everyone(3)
    assert recall_at_k(scores, labels, mask=mask, k=3) == 0.5
    assert ndcg_at_k(scores, labels, mask=mask, k=3) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    nothing = one([NAN, NAN, NAN])
    assert recall_at_k(nothing, labels, mask=mask, k=3) == 0
    assert ndcg_at_k(nothing, labels, mask=mask, k=3) == 0
    assert overlap_at_k(nothing, scores, mask=mask, k=3) == 0


def test_users_to_whom_a_metric_does_not_apply_are_nan_and_outside_the_mean() -> None:
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    labels = np.array([[0, 1], [0, 0], [1, 1]])
    mask = np.array([[True, True], [True, True], [False, False]])
    recall = recall_at_k(scores, labels, mask=mask, k=2)
    np.testing.assert_array_equal(recall, [1.0, NAN, NAN])
    np.testing.assert_array_equal(np.isnan(ndcg_at_k(scores, labels, mask=mask, k=2)), [False, True, True])
    np.testing.assert_array_equal(np.isnan(overlap_at_k(scores, scores, mask=mask, k=2)), [False, False, True])
    assert mean_over_users(recall) == 1.0
    assert mean_over_users(np.array([0.25, NAN, 0.75])) == 0.5
    assert math.isnan(mean_over_users(np.array([NAN, NAN])))
    assert math.isnan(mean_over_users(np.array([])))


def test_overlap_by_hand() -> None:
    mask = everyone(4)
    scores, other = one([4.0, 3, 2, 1]), one([4.0, 1, 3, 2])
    assert [overlap_at_k(scores, other, mask=mask, k=k).item() for k in (1, 2, 3, 4)] == pytest.approx(
        [1, 1 / 2, 2 / 3, 1]
    )
    assert overlap_at_k(scores, other, mask=mask, k=9) == 1  # of min(k, n)


def test_overlap_of_equal_rankings_is_full_and_of_a_constant_one_by_chance() -> None:
    scores = one([2.0, 2.0, 1.0, 1.0, 1.0])
    strict = one([5.0, 4.0, 3.0, 2.0, 1.0])
    constant = np.zeros((1, 5))
    for k in range(1, 6):
        assert overlap_at_k(scores, scores * 3, mask=everyone(5), k=k) == pytest.approx(1)
        assert overlap_at_k(strict, constant, mask=everyone(5), k=k) == pytest.approx(k / 5)
        assert overlap_at_k(constant, strict, mask=everyone(5), k=k) == pytest.approx(k / 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8])
def test_every_kind_of_score_and_boolean_labels(dtype: type) -> None:
    scores, labels = np.array([[3, 1, 2]], dtype=dtype), np.array([[False, True, False]])
    assert recall_at_k(scores, labels, mask=everyone(3), k=2) == 0
    assert recall_at_k(scores, labels, mask=everyone(3), k=3) == 1
    assert ndcg_at_k(scores, labels, mask=everyone(3), k=3) == pytest.approx(1 / 2)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_no_users_or_no_items(shape: tuple[int, int]) -> None:
    scores, mask = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for values in (
        recall_at_k(scores, scores, mask=mask, k=10),
        ndcg_at_k(scores, scores, mask=mask, k=10),
        overlap_at_k(scores, scores, mask=mask, k=10),
    ):
        assert values.shape == (shape[0],)
        assert np.isnan(values).all()


def test_inputs_are_not_changed() -> None:
    scores, labels, mask = one([1.0, NAN, 3.0]), one([1.0, 0.0, 2.0]), np.array([[True, True, False]])
    before = scores.copy(), labels.copy(), mask.copy()
    recall_at_k(scores, labels, mask=mask, k=2)
    ndcg_at_k(scores, labels, mask=mask, k=2, gain="exponential")
    overlap_at_k(scores, scores, mask=mask, k=2)
    for now, then in zip((scores, labels, mask), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_wrong_arguments_are_named() -> None:
    scores, labels, mask = one([1.0, 2.0]), one([1.0, 0.0]), everyone(2)
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        recall_at_k(scores, labels, mask=mask, k=0)
    with pytest.raises(ValueError, match=r"one shape \[B, n\]: they have \(2,\) and \(1, 2\)"):
        ndcg_at_k(scores[0], labels, mask=mask, k=1)
    with pytest.raises(ValueError, match=r"labels have the shape \(1, 3\), the mask \(1, 2\)"):
        recall_at_k(scores, one([1, 0, 0]), mask=mask, k=1)
    with pytest.raises(ValueError, match="mask must be boolean, True = a real item: its dtype is int64"):
        overlap_at_k(scores, scores, mask=mask.astype(np.int64), k=1)
    with pytest.raises(ValueError, match="gain must be 'linear' or 'exponential', got 'square'"):
        ndcg_at_k(scores, labels, mask=mask, k=1, gain="square")
    for wrong in (-1.0, NAN, math.inf):
        with pytest.raises(ValueError, match=f"at least 0: the one in row 0, column 1 is {wrong}"):
            recall_at_k(scores, one([1.0, wrong]), mask=mask, k=1)


def test_torch_is_not_imported() -> None:
    code = "import sys, ranktower.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
