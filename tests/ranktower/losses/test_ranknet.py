from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.losses import ranknet_loss


def pairwise_logistic(z: Sequence[float], y: Sequence[float]) -> float:
    n = len(z)
    return sum(math.log(1 + math.exp(z[j] - z[i])) for i in range(n) for j in range(n) if y[i] > y[j])


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, pairwise_logistic, lambda z, y: len(set(y)) > 1)
    assert ranknet_loss(scores, labels, mask=mask).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_per_pair_is_the_mean_over_the_pairs_that_have_an_order(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    def a_pair(z: Sequence[float], y: Sequence[float]) -> float:
        return pairwise_logistic(z, y) / sum(y_i > y_j for y_i in y for y_j in y)

    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, a_pair, lambda z, y: len(set(y)) > 1)
    assert ranknet_loss(scores, labels, mask=mask, per_pair=True).item() == pytest.approx(expected, rel=1e-12)


def test_only_differences_of_labels_matter(make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(4)
    value = ranknet_loss(scores, labels, mask=mask)
    assert ranknet_loss(scores, labels - 2, mask=mask) == value
    assert ranknet_loss(scores, labels + 2, mask=mask) == value


def test_by_hand() -> None:
    # Pairs (0, 1), (0, 2), (1, 2), all differences of scores 0: 3 log 2.
    labels = torch.tensor([[2.0, 1.0, 0.0]])
    value = ranknet_loss(torch.zeros(1, 3), labels, mask=torch.ones(1, 3, dtype=torch.bool))
    assert value.item() == pytest.approx(3 * math.log(2))


def test_a_pair_far_in_the_wrong_order_costs_its_distance() -> None:
    scores, labels = torch.tensor([[-1e4, 1e4]], requires_grad=True), torch.tensor([[1.0, 0.0]])
    value = ranknet_loss(scores, labels, mask=torch.ones(1, 2, dtype=torch.bool))
    value.backward()
    assert value.item() == 2e4
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-1.0, 1.0]]


def test_lists_without_a_pair_do_not_count() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    for per_pair in (False, True):
        value = ranknet_loss(torch.zeros(3, 2), labels, mask=mask, per_pair=per_pair)
        assert value.item() == pytest.approx(math.log(2))
