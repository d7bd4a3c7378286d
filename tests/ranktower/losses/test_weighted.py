from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import weighted_logloss


def weighted_cross_entropy(z: Sequence[float], p: Sequence[float], weight: float) -> float:
    total = 0.0
    for score, positive_part in zip(z, p, strict=True):
        probability = 1 / (1 + math.exp(-score))
        total -= weight * positive_part * math.log(probability) + (1 - positive_part) * math.log(1 - probability)
    return total


@pytest.mark.parametrize("weight", [1.0, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int, weight: float, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, p, mask = make_lists(seed, soft_labels=True)
    expected = expected_mean(scores, p, mask, lambda z, y: weighted_cross_entropy(z, y, weight), lambda z, _: bool(z))
    value = weighted_logloss(scores, p, mask=mask, positive_weight=weight)
    assert value.item() == pytest.approx(expected, rel=1e-11)


def test_at_weight_one_least_where_the_probability_equals_the_teacher() -> None:
    p = torch.tensor([[0.2, 0.7]], dtype=torch.float64)
    scores = p.logit().requires_grad_()
    weighted_logloss(scores, p, mask=torch.ones(1, 2, dtype=torch.bool)).backward()
    torch.testing.assert_close(scores.grad, torch.zeros(1, 2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_weight_multiplies_positives_and_leaves_negatives() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = weighted_logloss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), mask=mask, positive_weight=5.0)
    assert value.item() == pytest.approx(6 * math.log(2))


def test_extremes_cost_their_distance() -> None:
    scores, p = torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]])
    value = weighted_logloss(scores, p, mask=torch.ones(1, 2, dtype=torch.bool))
    assert value.item() == 2e4


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_makes_no_sense_is_named(weight: float) -> None:
    with pytest.raises(ConfigError, match=f"^weighted_logloss positive_weight must be positive, got {weight}$"):
        weighted_logloss(
            torch.zeros(1, 2), torch.zeros(1, 2), mask=torch.ones(1, 2, dtype=torch.bool), positive_weight=weight
        )
