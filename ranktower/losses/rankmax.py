"""Rankmax loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.losses.lists import clean_lists, mean_over_lists, pack


def rankmax_loss(scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    """Equation (17): ``sum_{j: y_j > 0} log sum_i (z_i - z_j + 1)_+``, i over the whole list, j included.

    Kong et al. 2020, "Rankmax: An adaptive projection alternative to the softmax function". The term i = j is 1, so the
    logarithm is never below 0. A list counts if it has a positive label. Shapes, masking and reduction: ``ListLoss``.
    """
    z, y = clean_lists(scores, labels, mask)
    targets, real = pack(y > 0)
    # -inf, so that padding falls below every hinge.
    competitors = (z + 1).masked_fill(~mask, -torch.inf)
    hinges = (competitors.unsqueeze(-2) - z.gather(-1, targets).unsqueeze(-1)).relu_()
    values = hinges.sum(dim=-1).masked_fill(~real, 1.0).log().sum(dim=-1)
    return mean_over_lists(values, real.any(dim=-1))
