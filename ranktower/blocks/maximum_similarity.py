"""Maximum Similarity Layer (paper §3.5, equation 13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Least squared norm, so that the cosine of a zero vector is 0 with a finite gradient. A floor and not an addend: graph
# optimisers drop the addition of so small a constant, and with it the guard.
MINIMUM_SQUARED_NORM = 1e-12


class MaximumSimilarity(nn.Module):
    """``s = sum_p max_q cos(E'_u[p], E'_i[q]) / tau``; tau is learned as its logarithm, so it stays positive."""

    def __init__(self, *, initial_tau: float = 0.25) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(math.log(initial_tau)))

    @property
    def tau(self) -> Tensor:
        """The temperature, a positive scalar."""
        return self.log_tau.exp()

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """``E'_u [..., Hu, D]`` and ``E'_i [..., Hi, D]`` to logits ``[...]``.

        Lengths divide the products and not the vectors, which are D times as many numbers to write and to go back
        through.
        """
        similarity = users @ items.transpose(-1, -2)
        similarity = similarity * _inverse_length(users).unsqueeze(-1) * _inverse_length(items).unsqueeze(-2)
        return similarity.amax(dim=-1).sum(dim=-1) / self.tau


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors along the last axis scaled to length 1; a zero vector stays zero."""
    return vectors * torch.rsqrt((vectors * vectors).sum(dim=-1, keepdim=True).clamp_min(MINIMUM_SQUARED_NORM))


def _inverse_length(vectors: Tensor) -> Tensor:
    """``[..., H, D]`` to ``1 / |vector|`` ``[..., H]``, with the same floor as ``unit_length``."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths.clamp_min(MINIMUM_SQUARED_NORM**0.5).reciprocal()
