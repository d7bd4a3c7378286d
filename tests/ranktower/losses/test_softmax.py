from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.losses import softmax_loss


def cross_entropy(z: Sequence[float], y: Sequence[float]) -> float:
    total = sum(math.exp(score) for score in z)
    return -sum(label * math.log(math.exp(score) / total) for score, label in zip(z, y, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, cross_entropy, lambda z, y: any(label > 0 for label in y))
    assert softmax_loss(scores, labels, mask=mask).item() == pytest.approx(expected, rel=1e-12)


def test_two_equal_scores_share_the_probability() -> None:
    # Each has probability 1/2, the labels sum to 3: 3 log 2.
    value = softmax_loss(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), mask=torch.ones(1, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(3 * math.log(2))


def test_far_behind_costs_the_whole_distance() -> None:
    scores = torch.tensor([[1e4, -1e4]])
    value = softmax_loss(scores, torch.tensor([[0.0, 1.0]]), mask=torch.ones(1, 2, dtype=torch.bool))
    assert value.item() == 2e4


def test_lists_without_a_positive_do_not_count() -> None:
    scores = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value = softmax_loss(scores, labels, mask=torch.ones(2, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(math.log(2))
