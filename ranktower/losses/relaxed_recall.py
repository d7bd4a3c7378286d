"""Relaxed recall loss of the best k items among the first m."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, longest, mean_over_lists
from ranktower.losses.neural_sort import check_temperature, log_permutation, permutation


def relaxed_recall_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    num_kept: int = 30,
    num_relevant: int = 20,
    temperature: float = 1.0,
) -> Tensor:
    """``-sum_j w_j log(1/m sum_{r <= m} P(z)_rj) / sum_j w_j``, a surrogate of Recall@m@k (Wang et al. 2023).

    The relaxed term of ARF (arXiv:2310.10462): the sum over NeuralSort's first m rows is how much of item j is among
    the ``num_kept`` = m items that a pre-ranker lets pass; ``w_j`` is how much of it is among the ``num_relevant`` = k
    best by label, 1 or 0 but for items of one label that straddle the k-th place, which share what is left of it. Items
    of label 0 are never relevant. m and k are cut to the list's length. A list counts if it has a positive label.
    ``temperature`` is ``log_permutation``'s. Shapes, masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``num_kept`` or ``num_relevant`` is below 1, or ``temperature`` is not positive.
    """
    for name, number in (("num_kept", num_kept), ("num_relevant", num_relevant)):
        if not number >= 1:
            raise ConfigError(f"relaxed_recall {name} must be at least 1, got {number}")
    check_temperature(temperature)
    z, y = clean_lists(scores, labels, mask)
    length = max(longest(mask), 1)
    m, k = min(num_kept, length), min(num_relevant, length)

    relevant = permutation(y, mask, k).sum(dim=-2) * (y > 0)
    kept = mask.sum(dim=-1, dtype=z.dtype).clamp(1, m).unsqueeze(-1)
    beyond = torch.arange(m, device=z.device) >= kept
    rows = log_permutation(z, mask, m, temperature).masked_fill(beyond.unsqueeze(-1), -torch.inf)
    values = (relevant * (kept.log() - rows.logsumexp(dim=-2))).sum(dim=-1)
    counts = (y > 0).any(dim=-1)
    return mean_over_lists(values / relevant.sum(dim=-1).masked_fill(~counts, 1.0), counts)
