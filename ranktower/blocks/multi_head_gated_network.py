"""Multi-Head Gated Network (paper §3.3, equations 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranktower.blocks.multi_layer_perceptron import MultiLayerPerceptron


class MultiHeadGatedNetwork(nn.Module):
    """``E = reshape(MLP(X)) * sigmoid(gMLP(stop_gradient(X)))``, a multi-embedding of ``H`` sub-spaces.

    The gate is a two-layer MLP with hidden width ``input_width / reduction``. The gradient stops at the gate's input
    only: the gate's own weights learn, the embeddings below learn through the MLP alone.
    """

    def __init__(
        self,
        input_width: int,
        *,
        num_heads: int,
        width: int,
        hidden: Sequence[int],
        gate_reduction: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.width = num_heads, width
        self.network = MultiLayerPerceptron(input_width, hidden, num_heads * width, dropout=dropout)
        self.gate = MultiLayerPerceptron(input_width, [max(1, input_width // gate_reduction)], num_heads * width)

    def forward(self, inputs: Tensor) -> Tensor:
        """``X [n, input_width]`` to ``E [n, H, D]``."""
        gated: Tensor = self.network(inputs) * torch.sigmoid(self.gate(inputs.detach()))
        return gated.reshape(-1, self.num_heads, self.width)
