"""RankNet loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ranktower.losses.lists import clean_lists, mean_over_lists


def ranknet_loss(scores: Tensor, labels: Tensor, *, mask: Tensor, per_pair: bool = False) -> Tensor:
    """``sum_{(i, j): y_i > y_j} log(1 + exp(-(z_i - z_j)))``: pairwise logistic loss over the pairs that have an order.

    Burges et al. 2005, "Learning to rank using gradient descent", with a target of 1 for every ordered pair. A list
    counts if it has a pair with different labels. ``per_pair`` divides a list's sum by the number of its pairs, so that
    the loss does not grow with the list. Shapes, masking and reduction: ``ListLoss``.
    """
    z, y = clean_lists(scores, labels, mask)
    # Infinite labels take the masked items out of every pair. 1.0 and 0.0, not bool: many times faster on a CPU.
    higher, lower = y.masked_fill(~mask, -torch.inf), y.masked_fill(~mask, torch.inf)
    ordered = (higher.unsqueeze(-1) - lower.unsqueeze(-2)).gt_(0)
    losses = -F.logsigmoid(z.unsqueeze(-1) - z.unsqueeze(-2))
    values, num_pairs = (losses * ordered).sum(dim=(-2, -1)), ordered.sum(dim=(-2, -1))
    if per_pair:
        values = values / num_pairs.clamp(min=1)
    return mean_over_lists(values, num_pairs > 0)
