"""Logistic regression: one weight per feature value of both sides (McMahan et al. 2013)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.blocks.field_embedding import masked_mean
from ranktower.models.pre_ranker import PreRanker, Rows


class LRConfig(BaseModel):
    """Logistic regression has no shape to choose.

    Attributes:
        name: tells the models of a configuration apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["lr"] = "lr"


class WeightSum(nn.Module):
    """The sum of one weight per feature value; of a multi-valued field the mean of its entries' weights, 0 for none.

    The weights of all fields stand in one table, one field after another, and begin at 0, where FTRL begins.
    """

    starts: Tensor

    def __init__(self, sizes: FieldSizes) -> None:
        super().__init__()
        *starts, total = itertools.accumulate((*sizes.single.values(), *sizes.bags.values()), initial=0)
        self.num_single = len(sizes.single)
        self.weights = nn.Embedding(total, 1)
        nn.init.zeros_(self.weights.weight)
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, features: SideFeatures) -> Tensor:
        """Features of n rows to sums ``[n, 1]``."""
        total: Tensor = self.weights(features.codes + self.starts[: self.num_single]).sum(dim=1)
        bags = zip(self.starts[self.num_single :], features.bag_values, features.bag_lengths, strict=True)
        for start, values, lengths in bags:
            total = total + masked_mean(self.weights(values + start), lengths)
        return total


class LR(PreRanker):
    """``s = sum_f w_f[x_u] + sum_f w_f[x_i] + b``; a row is its side's sum.

    Without a feature of both sides the user's sum and the bias move all scores of a list alike: items rank the same
    for every user, and losses of score differences leave those two at 0.
    """

    def __init__(self, config: LRConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        self.user_tower = WeightSum(users)
        self.item_tower = WeightSum(items)
        self.bias = nn.Parameter(torch.zeros(()))

    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to sums ``[n, 1]``."""
        return (self.user_tower(features),)

    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to sums ``[n, 1]``."""
        return (self.item_tower(features),)

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Sums ``[B, 1]`` and ``[B, L, 1]`` to logits ``[B, L]``."""
        return users[0] + items[0].squeeze(-1) + self.bias
