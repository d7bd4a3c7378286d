"""Residual unit of Deep Crossing (Shan et al. 2016, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """``ReLU(W_1 ReLU(W_0 x + b_0) + b_1 + x)``: two layers around a shortcut, with ReLU behind the sum."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., width]`` to ``[..., width]``."""
        return torch.relu(self.outer(torch.relu(self.inner(inputs))) + inputs)
