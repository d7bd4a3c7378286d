"""xDeepInt (Yan and Li 2020): a polynomial interaction network whose layers all reach the output."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from ranktower.blocks import FieldSizes
from ranktower.blocks.polynomial_interaction_network import PolynomialInteractionNetwork
from ranktower.errors import ConfigError
from ranktower.models.ranker import Ranker, RankerConfig


class XDeepIntConfig(RankerConfig):
    """Shape of an xDeepInt.

    Attributes:
        name: tells the rankers of a configuration apart.
        num_layers: layers of the interaction network; one more is the highest degree.
        num_subspaces: pieces that each field's vector is cut into; must divide ``width``.
    """

    name: Literal["xdeepint"] = "xdeepint"
    num_layers: int = Field(default=2, ge=1)
    num_subspaces: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.num_subspaces:
            raise ConfigError(f"num_subspaces: must divide width {self.width}, got {self.num_subspaces}")
        return self


class XDeepInt(Ranker):
    """``w [X_1, ..., X_l] + b`` over the layers of the interaction network.

    The authors train with FTRL and its group lasso, to select fields; here Adam trains it like the other rankers.
    """

    def __init__(self, config: XDeepIntConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__(users, items, config.width)
        fields = self.embedding.num_fields
        self.interactions = PolynomialInteractionNetwork(
            fields, num_layers=config.num_layers, num_subspaces=config.num_subspaces
        )
        self.score = nn.Linear(config.num_layers * fields * config.width, 1)

    def score_fields(self, fields: Tensor) -> Tensor:
        logits: Tensor = self.score(self.interactions(fields).flatten(1))
        return logits.squeeze(1)
