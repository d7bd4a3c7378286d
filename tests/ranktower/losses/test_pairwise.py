from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.losses import pairwise_logloss


def logistic_on_the_teachers_order(z: Sequence[float], p: Sequence[float]) -> float:
    items = sorted(zip(p, z, strict=True))
    total = 0.0
    for rank, (lower_p, lower_z) in enumerate(items):
        for higher_p, higher_z in items[rank + 1 :]:
            if higher_p > lower_p:
                total -= math.log(1 / (1 + math.exp(lower_z - higher_z)))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, p, mask = make_lists(seed, soft_labels=True)
    expected = expected_mean(scores, p, mask, logistic_on_the_teachers_order, lambda z, y: len(set(y)) > 1)
    assert pairwise_logloss(scores, p, mask=mask).item() == pytest.approx(expected, rel=1e-12)


def test_only_the_teachers_order_matters() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    near, far = torch.tensor([[0.50, 0.51, 0.52]]), torch.tensor([[0.1, 0.5, 0.9]])
    assert pairwise_logloss(scores, near, mask=mask) == pairwise_logloss(scores, far, mask=mask)


def test_by_hand() -> None:
    # One pair, the teacher prefers the item that is 1 behind: log(1 + e).
    value = pairwise_logloss(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0.6, 0.2]]), mask=torch.ones(1, 2, dtype=torch.bool)
    )
    assert value.item() == pytest.approx(math.log(1 + math.e))
