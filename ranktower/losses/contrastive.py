"""Contrastive loss, InfoNCE over a user's positives."""

from __future__ import annotations

from torch import Tensor

from ranktower.losses.lists import clean_lists, mean_over_lists
from ranktower.losses.softmax import softmax_cross_entropy


def contrastive_loss(scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    """``-1/|P| sum_{j in P} log softmax(z)_j`` with ``P`` the items of a positive label (van den Oord et al. 2018).

    The contrastive interaction regulariser (CIR) of IntTower, over a batch's distinct items: ``scores`` [B, n] are
    similarities over a temperature, and what is a positive of one user is a negative of another. All positives of a
    user share one denominator, so that it is computed once. A list counts if it has a positive label. Masking and
    reduction: ``ListLoss``.
    """
    z, y = clean_lists(scores, labels, mask)
    positive = (y > 0).to(z.dtype)
    weights = positive / positive.sum(dim=-1, keepdim=True).clamp(min=1)
    return mean_over_lists(softmax_cross_entropy(z, weights, mask), (y > 0).any(dim=-1))
