"""The fields of one side as the rows of a matrix, for blocks that weigh whole fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranktower.blocks.field_embedding import FieldEmbedding, FieldSizes, SideFeatures


class FieldMatrix(nn.Module):
    """Field embeddings brought to one width: a linear map where a field's own width is another, nothing elsewhere.

    At the width of 16 only fields of 131,072 values and more, and those that were given a width, are mapped.
    """

    def __init__(self, sizes: FieldSizes, width: int) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(sizes)
        self.widths = list(sizes.widths)
        self.maps = nn.ModuleList(
            nn.Identity() if own == width else nn.Linear(own, width, bias=False) for own in self.widths
        )
        self.num_fields = len(self.widths)

    def forward(self, features: SideFeatures) -> Tensor:
        """``SideFeatures`` of n rows to ``[n, F, width]``, single-valued fields first."""
        fields = torch.split(self.embedding(features), self.widths, dim=1)
        return torch.stack([to_width(field) for to_width, field in zip(self.maps, fields, strict=True)], dim=1)
