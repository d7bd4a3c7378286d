"""Deep Crossing (Shan et al. 2016): embeddings, stacked and passed through residual units."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldSizes
from ranktower.blocks.residual_unit import ResidualUnit
from ranktower.models.ranker import Ranker, RankerConfig


class DeepCrossingConfig(RankerConfig):
    """Shape of a Deep Crossing model.

    Attributes:
        name: tells the rankers of a configuration apart.
        hidden: inner width of each residual unit.
    """

    name: Literal["deep_crossing"] = "deep_crossing"
    hidden: tuple[PositiveInt, ...] = Field(default=(32, 32), min_length=1)


class DeepCrossing(Ranker):
    """``sigmoid(w ResidualUnits([ReLU(e_1), ..., ReLU(e_F)]) + b)``.

    The embedding layer is ``ReLU(W x + b)`` (equation 2); for a one-hot x that is ReLU of a row of a table. The authors
    stack fields of at most 256 values as they are; here every field is embedded.
    """

    def __init__(self, config: DeepCrossingConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__(users, items, config.width)
        width = self.embedding.num_fields * config.width
        self.units = nn.Sequential(*(ResidualUnit(width, hidden) for hidden in config.hidden))
        self.score = nn.Linear(width, 1)

    def score_fields(self, fields: Tensor) -> Tensor:
        logits: Tensor = self.score(self.units(torch.relu(fields).flatten(1)))
        return logits.squeeze(1)
