"""What the teacher asks of a ranking model: a logit of a pair from the features of both sides at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.blocks.fused_field_embedding import FusedFieldEmbedding


class RankerConfig(BaseModel):
    """What every ranker's shape has.

    Attributes:
        width: of every field's embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=16, ge=1, le=256)


class Ranker(nn.Module, ABC):
    """A model that sees user and item together. Unlike a pre-ranker it keeps nothing that one side alone decides."""

    def __init__(self, users: FieldSizes, items: FieldSizes, width: int) -> None:
        """``width`` is that of the field embeddings."""
        super().__init__()
        self.embedding = FusedFieldEmbedding(users, items, width)

    def forward(self, users: SideFeatures, items: SideFeatures) -> Tensor:
        """Features of n users and of n items, pair by pair, to logits ``[n]``."""
        return self.score_fields(self.embedding(users, items))

    @abstractmethod
    def score_fields(self, fields: Tensor) -> Tensor:
        """Field embeddings ``[n, F, width]`` to logits ``[n]``."""
