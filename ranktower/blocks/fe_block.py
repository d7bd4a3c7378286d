"""FE-Block, the fine-grained and early interaction block of IntTower."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranktower.blocks.maximum_similarity import unit_length


class SubSpaces(nn.Module):
    """A tower's layers in ``M`` sub-spaces each: ``h_l W_lm``, scaled to length 1. Runs once a user or item."""

    def __init__(self, layer_widths: Sequence[int], *, num_heads: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleList(nn.Linear(own, num_heads * width) for own in layer_widths)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Layers ``[n, layer width]``, as many as the widths, to ``[n, layers * M, width]``, layer by layer."""
        projected = [to_heads(layer) for to_heads, layer in zip(self.projections, layers, strict=True)]
        vectors = torch.cat(projected, dim=1)
        # shape[0], not len: a traced graph must take any number of rows.
        return unit_length(vectors.reshape(vectors.shape[0], -1, self.width))


class FEBlock(nn.Module):
    """``s = sum_l sum_m max_m' <u_lm, v_m'> / tau``: every layer of the user meets the last layer of the item.

    Li et al. 2022 sum raw inner products. Here the vectors have length 1 and ``tau`` is learned, as in
    all models of this project that compare vectors, so that the scale of the logits is one parameter and no sub-space
    wins by its length alone.
    """

    def __init__(self, *, initial_tau: float) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(math.log(initial_tau)))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """``[B, layers * M, width]`` and ``[B, L, M', width]`` to logits ``[B, L]``; the user is never expanded."""
        similarity = items.flatten(1, 2) @ users.transpose(1, 2)
        by_item = similarity.reshape(similarity.shape[0], -1, items.shape[2], similarity.shape[2])
        return by_item.amax(dim=2).sum(dim=-1) / self.log_tau.exp()
