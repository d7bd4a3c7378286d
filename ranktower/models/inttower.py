"""IntTower (Li et al. 2022): two towers whose layers interact, refined by Light-SE and a contrastive regulariser."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldEmbedding, FieldSizes, SideFeatures
from ranktower.blocks.fe_block import FEBlock, SubSpaces
from ranktower.blocks.field_matrix import FieldMatrix
from ranktower.blocks.light_se import LightSE
from ranktower.losses import contrastive_loss
from ranktower.models.pre_ranker import EncodedLists, PreRanker, Rows


class IntTowerConfig(BaseModel):
    """Shape of an IntTower model and the weight of its own loss.

    Attributes:
        name: tells the models of a configuration apart.
        num_heads: M, the sub-spaces of every layer on both sides.
        width: size of one sub-space vector.
        field_width: to which every field's embedding is brought for Light-SE.
        hidden: widths of the layers of both towers; every one of the user's interacts.
        dropout: share of the layers' units that a training step leaves out.
        initial_tau: temperature of the FE-Block before training.
        cir_weight: of the contrastive interaction regulariser; 0 leaves it out.
        cir_temperature: of the regulariser, as in the authors' code.
        cir_above: a pair whose label is above this is positive for the regulariser; 1 leaves out impressions without
            feedback.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["inttower"] = "inttower"
    num_heads: int = Field(default=4, ge=1)
    width: int = Field(default=32, ge=1)
    field_width: int = Field(default=16, ge=1)
    hidden: tuple[PositiveInt, ...] = Field(default=(128,), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_tau: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    cir_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    cir_temperature: float = Field(default=0.07, gt=0, allow_inf_nan=False)
    cir_above: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class InteractingTower(nn.Module):
    """One side: field embeddings, Light-SE and the layers, of which the last ``num_interacting`` go into sub-spaces."""

    def __init__(self, sizes: FieldSizes, config: IntTowerConfig, *, num_interacting: int) -> None:
        super().__init__()
        self.fields = FieldMatrix(sizes, config.field_width)
        self.light_se = LightSE(self.fields.num_fields)
        widths = (self.fields.num_fields * config.field_width, *config.hidden)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))
        self.activation = nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout))
        self.num_interacting = num_interacting
        self.sub_spaces = SubSpaces(widths[-num_interacting:], num_heads=config.num_heads, width=config.width)

    def forward(self, features: SideFeatures) -> Tensor:
        """Features of n rows to unit vectors ``[n, num_interacting * M, width]``, those of the last layer last."""
        output = self.light_se(self.fields(features)).flatten(1)
        outputs = []
        for layer in self.layers:
            output = self.activation(layer(output))
            outputs.append(output)
        vectors: Tensor = self.sub_spaces(outputs[-self.num_interacting :])
        return vectors


class IntTower(PreRanker):
    """``s``: the FE-Block over the user's layers and the item's last one. A row is one side's sub-space vectors."""

    def __init__(self, config: IntTowerConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        self.user_tower = InteractingTower(users, config, num_interacting=len(config.hidden))
        self.item_tower = InteractingTower(items, config, num_interacting=1)
        self.fe_block = FEBlock(initial_tau=config.initial_tau)

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding]:
        return self.user_tower.fields.embedding, self.item_tower.fields.embedding

    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to the sub-space vectors of all layers, ``[n, layers * M, width]``."""
        return (self.user_tower(features),)

    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to the sub-space vectors of the last layer, ``[n, M, width]``."""
        return (self.item_tower(features),)

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Vectors ``[B, layers * M, width]`` and, of L items a user, ``[B, L, M, width]`` to logits ``[B, L]``."""
        scores: Tensor = self.fe_block(users[0], items[0])
        return scores

    def auxiliary_loss(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        """``cir_weight`` times CIR: InfoNCE between users and items of positive pairs.

        A side's vector is its last layer in all sub-spaces, so the similarity is the mean of their cosines. Negatives
        are all other items of the batch, ``[B, distinct items]`` numbers, however many positives there are.
        """
        if not self.config.cir_weight:
            return scores.new_zeros(())
        real, positive = self._met(lists)
        last = lists.users[0][:, -self.config.num_heads :].flatten(1)
        cosines = last @ F.embedding(real, lists.items[0].flatten(1)).T / self.config.num_heads
        loss = contrastive_loss(cosines / self.config.cir_temperature, positive, mask=torch.ones_like(positive).bool())
        return self.config.cir_weight * loss

    def _met(self, lists: EncodedLists) -> tuple[Tensor, Tensor]:
        """The distinct items that stand in a list, as places ``[n]``, and which are positive for whom, ``[B, n]``."""
        real = torch.unique(lists.places[lists.mask])
        positive = (lists.mask & (lists.labels > self.config.cir_above)).to(lists.labels.dtype)
        counts = positive.new_zeros(len(positive), len(lists.items[0])).scatter_add(1, lists.places, positive)
        return real, counts[:, real]
