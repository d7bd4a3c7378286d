"""RankTower (paper §3): two multi-head gated towers, gated cross-attention, maximum similarity."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from ranktower.blocks import (
    FieldEmbedding,
    FieldSizes,
    GatedCrossAttentionNetwork,
    MaximumSimilarity,
    MultiHeadGatedNetwork,
    ProjectedRows,
    SideFeatures,
)
from ranktower.blocks.gated_attention_unit import Activation
from ranktower.models.pre_ranker import PreRanker, Rows


class RankTowerConfig(BaseModel):
    """Shape of a RankTower model; the defaults are the reference shape of the benchmarks.

    Attributes:
        name: tells the models of a configuration apart.
        num_user_heads: Hu, the user's sub-spaces.
        num_item_heads: Hi, the item's sub-spaces.
        width: D, the size of one sub-space embedding (the paper's k).
        attention_width: A (the paper's d_k).
        hidden: widths of the hidden layers of the Multi-Head Gated Network's MLP.
        gate_reduction: r, by which the gate's hidden width is smaller than its input.
        activation: phi of the Gated Attention Unit.
        initial_tau: temperature before training.
        dropout: after each hidden layer of the Multi-Head Gated Network's MLP.
        zero_output: begin with ``W_o`` of zero in both branches, so that the cross-attention starts as LayerNorm alone,
            and the model as MaxSim over layer-normed towers; the paper does not say how it begins, a random start is
            the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["ranktower"] = "ranktower"
    num_user_heads: int = Field(default=4, ge=1, le=16)
    num_item_heads: int = Field(default=4, ge=1, le=16)
    width: int = Field(default=32, ge=8, le=256)
    attention_width: int = Field(default=32, ge=8, le=256)
    hidden: tuple[PositiveInt, ...] = (128,)
    gate_reduction: int = Field(default=4, ge=1)
    activation: Activation = "silu"
    initial_tau: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    zero_output: bool = False


class Tower(nn.Module):
    """Embedding layer and Multi-Head Gated Network of one side: ``SideFeatures`` to ``E [n, H, D]``."""

    def __init__(self, sizes: FieldSizes, *, num_heads: int, config: RankTowerConfig) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(sizes)
        self.network = MultiHeadGatedNetwork(
            sizes.output_width,
            num_heads=num_heads,
            width=config.width,
            hidden=config.hidden,
            gate_reduction=config.gate_reduction,
            dropout=config.dropout,
        )

    def forward(self, features: SideFeatures) -> Tensor:
        """Features of n rows to their multi-embeddings ``[n, H, D]``."""
        output: Tensor = self.network(self.embedding(features))
        return output


class RankTower(PreRanker):
    """The whole model. ``encode_users`` and ``encode_items`` run offline, ``score_pairs`` online."""

    def __init__(self, config: RankTowerConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__()
        self.config = config
        self.user_tower = Tower(users, num_heads=config.num_user_heads, config=config)
        self.item_tower = Tower(items, num_heads=config.num_item_heads, config=config)
        self.cross_attention = GatedCrossAttentionNetwork(
            config.width, config.attention_width, activation=config.activation
        )
        if config.zero_output:
            for branch in (self.cross_attention.user_branch, self.cross_attention.item_branch):
                nn.init.zeros_(branch.output.weight)
        self.similarity = MaximumSimilarity(initial_tau=config.initial_tau)

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding]:
        return self.user_tower.embedding, self.item_tower.embedding

    def encode_users(self, features: SideFeatures) -> ProjectedRows:
        """Features of n users to ``E_u`` and the four projections, ``[n, Hu, D or A]``."""
        return self.cross_attention.project_users(self.user_tower(features))

    def encode_items(self, features: SideFeatures) -> ProjectedRows:
        """Features of n items to ``E_i`` and the four projections, ``[n, Hi, D or A]``."""
        return self.cross_attention.project_items(self.item_tower(features))

    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Rows of B users ``[B, Hu, *]`` and of L items a user ``[B, L, Hi, *]`` to logits ``[B, L]``."""
        scores: Tensor = self.similarity(*self.cross_attention(ProjectedRows(*users), ProjectedRows(*items)))
        return scores
