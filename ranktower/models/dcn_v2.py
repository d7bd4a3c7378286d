"""DCN-V2 (Wang et al. 2021): a cross network beside an MLP."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldSizes, MultiLayerPerceptron
from ranktower.blocks.cross_network import CrossNetwork
from ranktower.models.ranker import Ranker, RankerConfig


class DCNV2Config(RankerConfig):
    """Shape of a DCN-V2.

    Attributes:
        name: tells the rankers of a configuration apart.
        num_cross_layers: layers of the cross network.
        rank: of its weights.
        hidden: widths of the layers of the MLP, its output the last.
    """

    name: Literal["dcn_v2"] = "dcn_v2"
    num_cross_layers: int = Field(default=2, ge=1)
    rank: int = Field(default=16, ge=1)
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1)


class DCNV2(Ranker):
    """``w [Cross(x_0), MLP(x_0)] + b`` in the parallel form (figure 1b), ``x_0`` all embeddings side by side."""

    def __init__(self, config: DCNV2Config, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__(users, items, config.width)
        width = self.embedding.num_fields * config.width
        self.cross = CrossNetwork(width, num_layers=config.num_cross_layers, rank=config.rank)
        *hidden, output = config.hidden
        self.network = MultiLayerPerceptron(width, hidden, output)
        self.score = nn.Linear(width + output, 1)

    def score_fields(self, fields: Tensor) -> Tensor:
        inputs = fields.flatten(1)
        logits: Tensor = self.score(torch.cat([self.cross(inputs), torch.relu(self.network(inputs))], dim=1))
        return logits.squeeze(1)
