"""NeuralSort loss, and the relaxed permutation that it shares with relaxed recall."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, longest, mean_over_lists


def neural_sort_loss(scores: Tensor, labels: Tensor, *, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """``-1/n sum_rc P(y)_rc log P(z)_rc`` over the n real rows and columns: cross entropy of two permutations.

    The global term of ARF (Wang et al. 2023, arXiv:2310.10462), which asks for the whole order. ``P(z)`` is
    ``log_permutation``'s, ``P(y)`` its limit at temperature 0, in which items of one label share their rows evenly. A
    list counts if it has a valid item. Shapes, masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``temperature`` is not positive.
    """
    check_temperature(temperature)
    z, y = clean_lists(scores, labels, mask)
    rows = longest(mask)
    values = -(permutation(y, mask, rows) * log_permutation(z, mask, rows, temperature)).sum(dim=(-2, -1))
    return mean_over_lists(values / mask.sum(dim=-1).clamp(min=1), mask.any(dim=-1))


def log_permutation(z: Tensor, mask: Tensor, rows: int, temperature: float) -> Tensor:
    """Logarithm of NeuralSort's relaxed permutation matrix, its first ``rows`` rows, ``[B, rows, L]``.

    ``P(z)_r = softmax(((n + 1 - 2r) z - A 1) / tau)`` with ``A_ij = |z_i - z_j|`` (Grover et al. 2019, equation 5): row
    r is a distribution over the items, peaked at the r-th largest. The sums in it grow with the list, so
    ``tau = temperature * n``, and one temperature does for lists of any length. ``z`` comes from ``clean_lists``.
    Columns that are padding hold 0; rows beyond a list's n mean nothing.
    """
    n = mask.sum(dim=-1, dtype=z.dtype).clamp(min=1).view(-1, 1, 1)
    ranks = torch.arange(1, rows + 1, dtype=z.dtype, device=z.device).view(1, -1, 1)
    others = torch.where(mask, 1.0, 0.0).to(z.dtype).unsqueeze(-1)
    distances = ((z.unsqueeze(-1) - z.unsqueeze(-2)).abs() @ others).transpose(-1, -2)
    logits = ((n + 1 - 2 * ranks) / n * z.unsqueeze(-2) - distances / n) / temperature
    # A list without a real item keeps its columns: a row of nothing but -inf has a NaN gradient.
    columns = (mask | ~mask.any(dim=-1, keepdim=True)).unsqueeze(-2)
    return logits.masked_fill(~columns, -torch.inf).log_softmax(dim=-1).masked_fill(~mask.unsqueeze(-2), 0.0)


def permutation(y: Tensor, mask: Tensor, rows: int) -> Tensor:
    """The matrix ``[B, rows, L]`` that sorts ``y`` downwards; equal items share their rows evenly. 0 in padding."""
    ranked = y.masked_fill(~mask, -torch.inf).sort(dim=-1, descending=True).values[:, :rows]
    shared = ((ranked.unsqueeze(-1) == y.unsqueeze(-2)) & mask.unsqueeze(-2)).to(y.dtype)
    return shared / shared.sum(dim=-1, keepdim=True).clamp(min=1)


def check_temperature(temperature: float) -> None:
    """Raises ConfigError for a temperature that is not positive."""
    if not temperature > 0:
        raise ConfigError(f"neural_sort temperature must be positive, got {temperature}")
