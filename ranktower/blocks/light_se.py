"""Light-SE, the lightweight squeeze-and-excitation block of IntTower."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LightSE(nn.Module):
    """``E' = E + softmax(W z + b) * E`` with ``z_f = mean(e_f)``, one weight a field (Li et al. 2022).

    Against the block of Hu et al. 2018 (two layers, sigmoid) one layer is left, and the weights of a side's fields sum
    to 1. ``E`` itself is added, as in the authors' code.
    """

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.excitation = nn.Linear(num_fields, num_fields)

    def forward(self, fields: Tensor) -> Tensor:
        """Field embeddings ``E [n, F, width]`` to refined ones of the same shape."""
        weights = torch.softmax(self.excitation(fields.mean(dim=-1)), dim=-1)
        return fields + weights.unsqueeze(-1) * fields
