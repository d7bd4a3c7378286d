"""COLD (Wang et al. 2020): one MLP over user, item and cross features, which a squeeze-and-excitation block weighs."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldEmbedding, FieldSizes, MultiLayerPerceptron, SideFeatures
from ranktower.blocks.field_matrix import FieldMatrix
from ranktower.blocks.squeeze_excitation import SqueezeExcitation
from ranktower.models.pre_ranker import PreRanker, Rows


class COLDConfig(BaseModel):
    """Shape of a COLD model.

    Attributes:
        name: tells the models of a configuration apart.
        field_width: to which every field's embedding is brought.
        num_cross: cross features.
        hidden: widths of the hidden layers, at least one.
        dropout: share of the hidden units that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cold"] = "cold"
    field_width: int = Field(default=16, ge=1)
    num_cross: int = Field(default=32, ge=1)
    hidden: tuple[PositiveInt, ...] = Field(default=(128,), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class SideTower(nn.Module):
    """What one side computes alone: its fields, its share of their weights, its factor of the cross features."""

    def __init__(self, sizes: FieldSizes, config: COLDConfig, *, num_weights: int, bias: bool = False) -> None:
        """``num_weights`` is the number of all fields that are weighed; one side's share carries the ``bias``."""
        super().__init__()
        self.fields = FieldMatrix(sizes, config.field_width)
        input_width = self.fields.num_fields * config.field_width
        self.excitation = SqueezeExcitation(input_width, num_weights, bias=bias)
        self.cross = nn.Linear(input_width, config.num_cross)

    def forward(self, features: SideFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """Features of n rows to fields ``[n, F_side, width]``, share ``[n, F]`` and factor ``[n, num_cross]``."""
        fields = self.fields(features)
        embeddings = fields.flatten(1)
        return fields, self.excitation(embeddings), self.cross(embeddings)


class UserTower(SideTower):
    """The user's side, whose fields also go through its columns of the MLP's first layer."""

    def __init__(self, sizes: FieldSizes, config: COLDConfig, *, num_weights: int) -> None:
        super().__init__(sizes, config, num_weights=num_weights, bias=True)
        self.first = nn.Linear(self.fields.num_fields * config.field_width, config.hidden[0], bias=False)

    def forward(self, features: SideFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """As the base class, but for the fields: each field's product with the first layer, ``[n, Fu, hidden[0]]``."""
        fields, share, factor = super().forward(features)
        columns = self.first.weight.reshape(-1, *fields.shape[1:])
        return torch.einsum("nfw,hfw->nfh", fields, columns), share, factor


class COLD(PreRanker):
    """``MLP([s_f e_f for every field f of user, item and cross])``, the only model here that joins the sides early.

    The data hold no logged cross features (such as what this user did with this item's category), so they are learned:
    a low-rank bilinear form, ``num_cross`` products of a linear map of the user's fields and one of the item's,
    together one more field. The weights ``s`` depend on the pair, and so does the MLP's first layer; but it is linear
    in ``s``, and the user's part of it is ``s_u`` times products that are computed once a user: a small matrix product,
    in which the user is not expanded over the items.
    """

    def __init__(self, config: COLDConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        num_users, num_items = (len(sizes.single) + len(sizes.bags) for sizes in (users, items))
        self.parts = [num_users, num_items, 1]
        num_weights = sum(self.parts)
        self.user_tower = UserTower(users, config, num_weights=num_weights)
        self.item_tower = SideTower(items, config, num_weights=num_weights)
        self.cross_excitation = SqueezeExcitation(config.num_cross, num_weights)
        self.item_first = nn.Linear(num_items * config.field_width, config.hidden[0])
        self.cross_first = nn.Linear(config.num_cross, config.hidden[0], bias=False)
        self.activation = nn.Sequential(nn.ReLU(), nn.Dropout(config.dropout))
        self.rest = MultiLayerPerceptron(config.hidden[0], config.hidden[1:], 1, dropout=config.dropout)

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding]:
        return self.user_tower.fields.embedding, self.item_tower.fields.embedding

    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to first-layer products ``[n, Fu, hidden[0]]``, ``[n, F]`` and ``[n, num_cross]``."""
        rows: Rows = self.user_tower(features)
        return rows

    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to field embeddings ``[n, Fi, field_width]``, ``[n, F]`` and ``[n, num_cross]``."""
        rows: Rows = self.item_tower(features)
        return rows

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Rows of B users ``[B, ...]`` and of L items a user ``[B, L, ...]`` to logits ``[B, L]``."""
        cross = users[2].unsqueeze(1) * items[2]
        shares = users[1].unsqueeze(1) + items[1] + self.cross_excitation(cross)
        of_user, of_items, of_cross = torch.split(shares.sigmoid(), self.parts, dim=-1)
        first = of_user @ users[0] + self.item_first((of_items.unsqueeze(-1) * items[0]).flatten(2))
        first = first + self.cross_first(of_cross * cross)
        logits: Tensor = self.rest(self.activation(first))
        return logits.squeeze(-1)
