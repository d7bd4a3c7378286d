"""Pairwise log loss."""

from __future__ import annotations

from torch import Tensor

from ranktower.losses.ranknet import ranknet_loss


def pairwise_logloss(scores: Tensor, teacher_scores: Tensor, *, mask: Tensor) -> Tensor:
    """``sum_{(i, j): p_i > p_j} log(1 + exp(-(z_i - z_j)))``, the pairwise alternative of Table 4.

    RankNet on the order of the teacher's predictions p: how far apart two predictions are does not matter, which is
    what the paper says of this loss. A list counts if it has two different predictions. Masking and reduction:
    ``ListLoss``.
    """
    return ranknet_loss(scores, teacher_scores, mask=mask)
