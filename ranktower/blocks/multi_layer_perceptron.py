"""A plain multi-layer perceptron, the part every tower shares."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


class MultiLayerPerceptron(nn.Module):
    """Linear layers with ReLU between them, each followed by ``dropout`` in training; the last layer is linear."""

    def __init__(self, input_width: int, hidden: Sequence[int], output_width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [input_width, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(widths[-1], output_width))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., input_width]`` to ``[..., output_width]``."""
        output: Tensor = self.layers(inputs)
        return output
