"""ApproxNDCG loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, mean_over_lists, pack


def approx_ndcg_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    temperature: float = 0.1,
    gain: Literal["linear", "exponential"] = "linear",
) -> Tensor:
    """``1 - sum_i g_i / log2(1 + rank_i) / ideal``, ``rank_i = 1 + sum_{j != i} sigmoid((z_j - z_i) / temperature)``.

    Qin et al. 2010, "A general approximation framework for direct optimization of information retrieval measures"; 0.1
    is TensorFlow Ranking's temperature, after Bruch et al. 2019. The gain is the label itself, as in this project's
    NDCG, or ``2^y - 1``; ``ideal`` is the DCG of the list sorted by label, over the whole list. A list counts if it has
    a positive label. Shapes, masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``temperature`` is not positive, or ``gain`` is none of the two.
    """
    if not temperature > 0:
        raise ConfigError(f"approx_ndcg temperature must be positive, got {temperature}")
    if gain not in ("linear", "exponential"):
        raise ConfigError(f"approx_ndcg gain must be 'linear' or 'exponential', got {gain!r}")
    z, y = clean_lists(scores, labels, mask)
    gains = y if gain == "linear" else torch.exp2(y) - 1
    positions = torch.arange(y.shape[-1], device=y.device, dtype=y.dtype)
    ideal = (gains.sort(dim=-1, descending=True).values / torch.log2(positions + 2)).sum(dim=-1)

    targets, real = pack(y > 0)
    competitors = z.masked_fill(~mask, -torch.inf).unsqueeze(-2)
    ahead = ((competitors - z.gather(-1, targets).unsqueeze(-1)) / temperature).sigmoid()
    # A place of padding among the targets has gain 0. The item itself is in the sum, with sigmoid(0) = 1/2.
    ranks = 0.5 + ahead.sum(dim=-1)
    dcg = (gains.gather(-1, targets) / torch.log2(1 + ranks)).sum(dim=-1)
    counts = real.any(dim=-1)
    return mean_over_lists(1 - dcg / ideal.masked_fill(~counts, 1.0), counts)
