"""Softmax cross entropy over a list."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.losses.lists import clean_lists, mean_over_lists


def softmax_loss(scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    """``-sum_j y_j log softmax(z)_j``: ListNet's top-one cross entropy with the labels as they are.

    ListNet (Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach") takes softmax(y) as the
    target; the raw labels are the reading usual in today's libraries, and leave negatives (y = 0) out of the target. A
    list counts if it has a positive label. Shapes, masking and reduction: ``ListLoss``.
    """
    z, y = clean_lists(scores, labels, mask)
    return mean_over_lists(softmax_cross_entropy(z, y, mask), (y > 0).any(dim=-1))


def softmax_cross_entropy(scores: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """``-sum_i w_i log softmax(z)_i`` of each list, [B], from inputs [B, L] that ``clean_lists`` has cleaned."""
    # A list without a real item keeps all its places: a row of nothing but -inf has a NaN gradient.
    kept = mask | ~mask.any(dim=-1, keepdim=True)
    log_probabilities = scores.masked_fill(~kept, -torch.inf).log_softmax(dim=-1)
    return -(weights * log_probabilities.masked_fill(~mask, 0.0)).sum(dim=-1)
