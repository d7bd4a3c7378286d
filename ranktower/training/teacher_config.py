"""Configuration of a teacher: which rankers, and how they are trained."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from ranktower.errors import ConfigError
from ranktower.models.dcn_v2 import DCNV2Config
from ranktower.models.deep_crossing import DeepCrossingConfig
from ranktower.models.deepfm import DeepFMConfig
from ranktower.models.ranker_choice import AnyRankerConfig
from ranktower.models.xdeepint import XDeepIntConfig
from ranktower.training.config_file import ConfigFile


class TeacherConfig(ConfigFile):
    """A whole teacher (METHOD §5); the defaults are its four rankers.

    Attributes:
        members: the rankers, each name once.
        num_folds: parts of the training impressions; each ranker is trained once without each part.
        max_epochs: passes over a fold's training impressions. Rankers with identities are at their best after about
            one, so validation nearly always ends training earlier.
        validations_per_epoch: how often the log loss on the validation split is looked at.
        patience: validations without a better log loss before training stops.
        batch_pairs: impressions a step.
        learning_rate: of Adam.
        positive_weight: of a positive in the log loss (Covington et al. 2016). A model so trained learns odds that are
            this many times too large; they are divided by it again, so that p stays a probability. 1 by default, the
            plain log loss: a weight lifts rare positives, and in KuaiRand 37 % of the impressions are positive.
        seed: of the folds, the initial weights and the order of the impressions.
    """

    unions: ClassVar[frozenset[str]] = frozenset({"members"})

    members: tuple[AnyRankerConfig, ...] = Field(
        default=(DeepFMConfig(), DeepCrossingConfig(), DCNV2Config(), XDeepIntConfig()), min_length=1
    )
    num_folds: int = Field(default=4, ge=2)
    max_epochs: int = Field(default=5, ge=1)
    validations_per_epoch: int = Field(default=2, ge=1)
    patience: int = Field(default=1, ge=1)
    batch_pairs: int = Field(default=2048, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    positive_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ConfigError(f"members: every ranker at most once, got {', '.join(names)}")
        return self
