from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.losses import rankmax_loss


def equation_17(z: Sequence[float], y: Sequence[float]) -> float:
    return sum(math.log(sum(max(z_i - z_j + 1, 0) for z_i in z)) for z_j, y_j in zip(z, y, strict=True) if y_j > 0)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, equation_17, lambda z, y: any(label > 0 for label in y))
    assert rankmax_loss(scores, labels, mask=mask).item() == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    # Target 0: its own 1, then 2.5 - 2 + 1 = 1.5, then (-1 - 2 + 1)_+ = 0.
    scores, labels = torch.tensor([[2.0, 2.5, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    value = rankmax_loss(scores, labels, mask=torch.ones(1, 3, dtype=torch.bool))
    assert value.item() == pytest.approx(math.log(2.5))


def test_zero_with_every_competitor_beyond_the_margin() -> None:
    scores, labels = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert rankmax_loss(scores, labels, mask=torch.ones(1, 3, dtype=torch.bool)).item() == 0.0


def test_masked_zero_does_not_beat_negative_scores() -> None:
    # Padding that stood as 0 would be the best score here: 0 - (-5) + 1 = 6 too much.
    scores, labels = torch.tensor([[-5.0, -9.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert rankmax_loss(scores, labels, mask=torch.tensor([[True, True, False]])).item() == 0.0
