"""Polynomial Interaction Network of xDeepInt (Yan and Li 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PolynomialInteractionNetwork(nn.Module):
    """``X_l = X_{l-1} * (W_l X_0) + X_{l-1}`` on ``X_0 [F, width]``, with ``W_l [F, F]``; * is elementwise.

    Every layer raises the degree by one, vector by vector. Cutting each field's vector into ``num_subspaces`` pieces
    and treating the pieces as fields (the paper's subspace-crossing) lets bits of different places meet too:
    ``X_0`` is then ``[F * num_subspaces, width / num_subspaces]``.
    """

    def __init__(self, num_fields: int, *, num_layers: int, num_subspaces: int) -> None:
        super().__init__()
        self.num_subspaces = num_subspaces
        rows = num_fields * num_subspaces
        self.layers = nn.ParameterList(nn.Parameter(torch.randn(rows, rows) * rows**-0.5) for _ in range(num_layers))

    def forward(self, fields: Tensor) -> Tensor:
        """``[n, F, width]`` to what all layers give, side by side: ``[n, num_layers, F * width]``.

        ``num_subspaces`` must divide the width.
        """
        num_pairs, num_fields, width = fields.shape
        start = fields.reshape(num_pairs, num_fields * self.num_subspaces, width // self.num_subspaces)
        layer, outputs = start, []
        for weight in self.layers:
            layer = layer * (weight @ start) + layer
            outputs.append(layer.flatten(1))
        return torch.stack(outputs, dim=1)
