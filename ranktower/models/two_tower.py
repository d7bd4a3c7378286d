"""Two-Tower (DSSM, Huang et al. 2013; for retrieval Covington et al. 2016): one vector a side, cosine over tau."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldEmbedding, FieldSizes, MultiLayerPerceptron, SideFeatures
from ranktower.blocks.maximum_similarity import unit_length
from ranktower.models.pre_ranker import PreRanker, Rows


class VectorTowersConfig(BaseModel):
    """Shape of two towers of one vector each.

    Attributes:
        width: size of each side's vector.
        hidden: widths of the hidden layers of both towers.
        initial_tau: temperature of the cosine before training.
        dropout: after each hidden layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, ge=1)
    hidden: tuple[PositiveInt, ...] = (128,)
    initial_tau: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TwoTowerConfig(VectorTowersConfig):
    """Shape of a two-tower model; ``name`` tells the models of a configuration apart."""

    name: Literal["two_tower"] = "two_tower"


class VectorTower(nn.Module):
    """Embedding layer and MLP of one side: ``SideFeatures`` to ``[n, width]``."""

    def __init__(self, sizes: FieldSizes, config: VectorTowersConfig) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(sizes)
        self.network = MultiLayerPerceptron(sizes.output_width, config.hidden, config.width, dropout=config.dropout)

    def forward(self, features: SideFeatures) -> Tensor:
        """Features of n rows to vectors ``[n, width]``."""
        output: Tensor = self.network(self.embedding(features))
        return output


class TwoTower(PreRanker):
    """``s = cos(MLP(X_u), MLP(X_i)) / tau``; a row is one unit vector, so retrieval is an inner product."""

    def __init__(self, config: VectorTowersConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        self.user_tower = VectorTower(users, config)
        self.item_tower = VectorTower(items, config)
        self.log_tau = nn.Parameter(torch.tensor(math.log(config.initial_tau)))

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding]:
        return self.user_tower.embedding, self.item_tower.embedding

    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to unit vectors ``[n, width]``."""
        return (unit_length(self.user_tower(features)),)

    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to unit vectors ``[n, width]``."""
        return (unit_length(self.item_tower(features)),)

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Vectors ``[B, width]`` and ``[B, L, width]`` to logits ``[B, L]``."""
        return (items[0] @ users[0].unsqueeze(-1)).squeeze(-1) / self.log_tau.exp()
