"""DAT, the dual augmented two-tower (Yu et al. 2021): each side's own vector, taught to look like what it meets."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import FieldEmbedding, FieldSizes, MultiLayerPerceptron, SideFeatures
from ranktower.blocks.maximum_similarity import unit_length
from ranktower.errors import ConfigError
from ranktower.models.pre_ranker import EncodedLists, PreRanker, Rows


class DATConfig(BaseModel):
    """Shape of a DAT model and the weights of its two own losses; a weight of 0 leaves its loss out.

    Attributes:
        name: tells the models of a configuration apart.
        width: size of each side's vector, and of the augmented ones.
        hidden: widths of the hidden layers of both towers.
        dropout: share of the towers' hidden units that a training step leaves out.
        initial_tau: temperature of the cosine before training.
        user_id_field, item_id_field: single-valued fields, by which the augmented vectors are looked up.
        mimic_weight: of the mimic loss.
        mimic_above: a pair whose label is above this is positive for the mimic loss; 1 leaves out impressions without
            feedback.
        category_field: single-valued item field of the category alignment loss; None leaves that loss out.
        alignment_weight: of the category alignment loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["dat"] = "dat"
    width: int = Field(default=64, ge=1)
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_tau: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    user_id_field: str = "user_id"
    item_id_field: str = "item_id"
    mimic_weight: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    mimic_above: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    category_field: str | None = None
    alignment_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class AugmentedTower(nn.Module):
    """One side: field embeddings and the augmented vector of the id, concatenated, through an MLP to a unit vector."""

    def __init__(self, sizes: FieldSizes, id_column: int, config: DATConfig) -> None:
        super().__init__()
        self.id_column = id_column
        self.embedding = FieldEmbedding(sizes)
        self.augmented = nn.Embedding(list(sizes.single.values())[id_column], config.width)
        # Of about unit length, as the vectors that it is compared with.
        nn.init.normal_(self.augmented.weight, std=config.width**-0.5)
        inputs = sizes.output_width + config.width
        self.network = MultiLayerPerceptron(inputs, config.hidden, config.width, dropout=config.dropout)

    def augment(self, features: SideFeatures) -> Tensor:
        """Features of n rows to their augmented vectors ``a``, ``[n, width]``."""
        vectors: Tensor = self.augmented(features.codes[:, self.id_column])
        return vectors

    def forward(self, features: SideFeatures) -> Tensor:
        """Features of n rows to unit vectors ``p``, ``[n, width]``."""
        return unit_length(self.network(torch.cat([self.embedding(features), self.augment(features)], dim=-1)))


class DAT(PreRanker):
    """``s = cos(p_u, p_i) / tau``; interaction comes in early through what the augmented vectors learned of the others.

    As in the paper, which trains ``<p_u, p_i>`` of unit vectors, but with a learned temperature. A row is one unit
    vector.
    """

    def __init__(self, config: DATConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        self.user_tower = AugmentedTower(users, _column(users, "user_id_field", config.user_id_field), config)
        self.item_tower = AugmentedTower(items, _column(items, "item_id_field", config.item_id_field), config)
        field = config.category_field
        self.category_column = None if field is None else _column(items, "category_field", field)
        self.log_tau = nn.Parameter(torch.tensor(math.log(config.initial_tau)))

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding]:
        return self.user_tower.embedding, self.item_tower.embedding

    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to unit vectors ``[n, width]``."""
        return (self.user_tower(features),)

    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to unit vectors ``[n, width]``."""
        return (self.item_tower(features),)

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Vectors ``[B, width]`` and ``[B, L, width]`` to logits ``[B, L]``."""
        return (items[0] @ users[0].unsqueeze(-1)).squeeze(-1) / self.log_tau.exp()

    def auxiliary_loss(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        """Mimic and category alignment loss, each by its weight."""
        loss = scores.new_zeros(())
        if self.config.mimic_weight:
            loss = loss + self.config.mimic_weight * self._mimic_loss(lists)
        if self.config.alignment_weight and self.category_column is not None:
            real = torch.bincount(lists.places[lists.mask], minlength=len(lists.items[0])) > 0
            categories = lists.item_features.codes[real, self.category_column]
            loss = loss + self.config.alignment_weight * category_alignment_loss(lists.items[0][real], categories)
        return loss

    def _mimic_loss(self, lists: EncodedLists) -> Tensor:
        """``mean over positive pairs of |a_u - p_i|^2 + |a_i - p_u|^2``, p without gradient.

        The adaptive-mimic mechanism of the paper. Its mean is over all pairs, of which negative ones add 0; over the
        positive ones the loss does not depend on how many negatives are sampled.
        """
        positive = lists.mask & (lists.labels > self.config.mimic_above)
        users, items = positive.nonzero()[:, 0], lists.places[positive]
        a_users = self.user_tower.augment(lists.user_features)
        a_items = self.item_tower.augment(lists.item_features)
        of_users = F.embedding(users, a_users) - F.embedding(items, lists.items[0].detach())
        of_items = F.embedding(items, a_items) - F.embedding(users, lists.users[0].detach())
        return (of_users.square().sum() + of_items.square().sum()) / max(len(users), 1)


def category_alignment_loss(vectors: Tensor, categories: Tensor) -> Tensor:
    """``sum over categories c of |C(major) - C(c)|_F^2``, C the covariance of a category's vectors.

    The category alignment of the paper: what is learned of the largest category is to reach the small ones. Here it is
    the batch's largest. Categories of fewer than two items have no covariance, and 0, out-of-vocabulary, is none.

    Args:
        vectors: of distinct items, ``[n, width]``.
        categories: int64 ``[n]``.
    """
    order = categories.argsort(stable=True)
    found, counts = torch.unique(categories, return_counts=True)
    groups = torch.split(vectors[order], counts.tolist())
    known = [group for code, group in zip(found.tolist(), groups, strict=True) if code and len(group) > 1]
    if not known:
        return vectors.new_zeros(())
    major = _covariance(max(known, key=len))
    return torch.stack([(major - _covariance(group)).square().sum() for group in known]).sum()


def _covariance(vectors: Tensor) -> Tensor:
    """Unbiased covariance ``[width, width]`` of at least two vectors ``[n, width]``."""
    centred = vectors - vectors.mean(dim=0)
    return centred.T @ centred / (len(vectors) - 1)


def _column(sizes: FieldSizes, key: str, field: str) -> int:
    """Where a field stands in ``SideFeatures.codes``; ConfigError if it does not."""
    if field not in sizes.single:
        raise ConfigError(f"model.{key}: {field!r} is no single-valued feature; there are {', '.join(sizes.single)}")
    return list(sizes.single).index(field)
