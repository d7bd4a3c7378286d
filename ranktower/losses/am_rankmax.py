"""Adaptive Margin Rankmax loss, the coarse-grained ranking loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, mean_over_lists, pack


def am_rankmax_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    alpha: float = 2.0,
    beta: float | None = None,
    power: float = 1.0,
) -> Tensor:
    """Equations (18) and (19): ``sum_{j: y_j > 0} log(1 + sum_{i: y_i < y_j} (z_i - z_j + m(i, j))_+)``.

    ``m(i, j) = alpha * 1[y_i = 0] + delta(y_i, y_j)``: a wider margin below the positives than among them (the paper
    searches alpha in 2..5). ``delta`` is 1 by default, as in the paper's experiments, or
    ``beta * |y_i - y_j|^power`` where ``beta`` is given. The ``1 +`` is Rankmax's own term i = j, which (19) drops
    from its index set; without it a perfectly ranked list would give log 0. A list counts if it has a positive label.
    Shapes, masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``alpha`` or ``beta`` below 0, or ``power`` not above 0.
    """
    check_options(alpha, beta, power)
    z, y = clean_lists(scores, labels, mask)
    targets, real = pack(y > 0)
    target_y = y.gather(-1, targets).unsqueeze(-1)
    raised = z + alpha * (y == 0) + (1.0 if beta is None else 0.0)
    gaps = raised.unsqueeze(-2) - z.gather(-1, targets).unsqueeze(-1)
    if beta is not None:
        gaps = gaps + beta * (target_y - y.unsqueeze(-2)).abs().pow(power)
    # An infinite label keeps the masked items out of every pair. 1.0 and 0.0, not bool: many times faster on a CPU.
    in_order = (target_y - y.masked_fill(~mask, torch.inf).unsqueeze(-2)).gt_(0)
    hinges = gaps.relu_() * in_order
    values = hinges.sum(dim=-1).log1p().masked_fill(~real, 0.0).sum(dim=-1)
    return mean_over_lists(values, real.any(dim=-1))


def check_options(alpha: float, beta: float | None, power: float) -> None:
    """Raises ConfigError as ``am_rankmax_loss`` says, for a configuration that is read long before the first step."""
    if not alpha >= 0:
        raise ConfigError(f"am_rankmax alpha must not be negative, got {alpha}")
    if beta is not None and not beta >= 0:
        raise ConfigError(f"am_rankmax beta must not be negative, got {beta}")
    if not power > 0:
        raise ConfigError(f"am_rankmax power must be positive, got {power}")
