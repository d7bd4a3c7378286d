"""Weighted log loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, mean_over_lists


def weighted_logloss(scores: Tensor, teacher_scores: Tensor, *, mask: Tensor, positive_weight: float = 1.0) -> Tensor:
    """``-sum_i [w p_i log sigmoid(z_i) + (1 - p_i) log(1 - sigmoid(z_i))]``, the pointwise alternative of Table 4.

    The paper names it after Covington et al. 2016 ("Deep neural networks for YouTube recommendations", weighted
    logistic regression: positives weighted, negatives with unit weight) and gives no formula. This is the reading for a
    soft label: ``teacher_scores`` [B, L] p in [0, 1] splits an item into a positive part p, weighted by
    ``positive_weight`` w, and a negative part 1 - p; at w = 1 it is the binary cross entropy against p, with hard
    labels Covington's loss. A list counts if it has a valid item. Masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``positive_weight`` is not positive.
    """
    check_options(positive_weight)
    z, p = clean_lists(scores, teacher_scores, mask)
    losses = -(positive_weight * p * F.logsigmoid(z) + (1 - p) * F.logsigmoid(-z))
    return mean_over_lists(losses.masked_fill(~mask, 0.0).sum(dim=-1), mask.any(dim=-1))


def check_options(positive_weight: float) -> None:
    """Raises ConfigError as ``weighted_logloss`` says, for a configuration that is read long before the first step."""
    if not positive_weight > 0:
        raise ConfigError(f"weighted_logloss positive_weight must be positive, got {positive_weight}")
