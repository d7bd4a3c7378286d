"""Distillation of the ranking model's predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.losses.lists import clean_lists, mean_over_lists
from ranktower.losses.softmax import softmax_cross_entropy


def distillation_loss(scores: Tensor, teacher_scores: Tensor, *, mask: Tensor, normalize: bool = False) -> Tensor:
    """Equation (14): ``-sum_i p_i log softmax(z)_i`` over the impressions of a list.

    ``teacher_scores`` [B, L] are the ranking model's predictions p in [0, 1]; ``mask`` [B, L] is True on impressions
    that have one (p may be NaN elsewhere). By default p is used as it is, as the equation is written, so that a list
    with larger predictions weighs more; ``normalize`` divides p by its sum over the list (a list whose p are all 0 then
    gives 0). A list counts if it has a valid item. Masking and reduction: ``ListLoss``.
    """
    z, p = clean_lists(scores, teacher_scores, mask)
    if normalize:
        total = p.sum(dim=-1, keepdim=True)
        p = p / torch.where(total > 0, total, 1.0)
    return mean_over_lists(softmax_cross_entropy(z, p, mask), mask.any(dim=-1))
