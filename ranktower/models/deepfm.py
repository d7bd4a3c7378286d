"""DeepFM (Guo et al. 2017): a factorization machine and an MLP over the same embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldSizes, MultiLayerPerceptron
from ranktower.blocks.factorization_machine import pairwise_products
from ranktower.models.ranker import Ranker, RankerConfig


class DeepFMConfig(RankerConfig):
    """Shape of a DeepFM.

    Attributes:
        name: tells the rankers of a configuration apart.
        hidden: widths of the hidden layers of the MLP.
    """

    name: Literal["deepfm"] = "deepfm"
    hidden: tuple[PositiveInt, ...] = Field(default=(128, 64))


class DeepFM(Ranker):
    """``b + sum_i w_i + sum_{i < j} <v_i, v_j> + MLP([v_1, ..., v_F])`` (equations 1 to 4).

    A field's first-order weight ``w_i`` is one more entry of its embedding, so both come from one lookup.
    """

    def __init__(self, config: DeepFMConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__(users, items, config.width + 1)
        self.network = MultiLayerPerceptron(self.embedding.num_fields * config.width, config.hidden, 1)
        self.bias = nn.Parameter(torch.zeros(()))

    def score_fields(self, fields: Tensor) -> Tensor:
        vectors, weights = fields[..., :-1], fields[..., -1]
        deep: Tensor = self.network(vectors.flatten(1)).squeeze(1)
        return self.bias + weights.sum(dim=1) + pairwise_products(vectors) + deep
