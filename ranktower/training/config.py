"""Configuration of a training run: one small YAML file, validated when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator, model_validator

from ranktower.data.feature_spec import HistoryOf
from ranktower.data.sampling import SamplingOptions
from ranktower.errors import ConfigError
from ranktower.losses import HybridOptions
from ranktower.models import ARFConfig, LRConfig, ModelConfig, RankTowerConfig, TwoTowerConfig
from ranktower.training.config_file import ConfigFile

Pool = Literal["full_corpus", "impressions"]
POOLS: tuple[Pool, ...] = get_args(Pool)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetrievalConfig(_Section):
    """The two-tower retrieval model that draws candidate samples (METHOD §4: softmax with sampled negatives).

    Attributes:
        model: its shape.
        of: what is retrieved: a user's positives of the training split, or all that was shown to the user there. The
            paper leaves it open.
        epochs: passes over the users.
        batch_users: users a step.
        max_items: of a user that a step takes at most, so that heavy users do not fill the memory.
        num_negatives: items drawn uniformly a step, shared by its users.
        learning_rate: of Adam.
        history_dropout: as in ``TrainConfig``; without it a model that sees histories retrieves what is in them.
        num_retrieved: candidates kept a user, best first, before the sampler draws from them.
    """

    model: TwoTowerConfig = TwoTowerConfig()
    of: HistoryOf = "positives"
    epochs: int = Field(default=8, ge=1)
    batch_users: int = Field(default=64, ge=1)
    max_items: int = Field(default=256, ge=1)
    num_negatives: int = Field(default=2048, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    history_dropout: float = Field(default=0.0, ge=0, lt=1)
    num_retrieved: int = Field(default=100, ge=1)


class ValidationConfig(_Section):
    """When and over what the model is validated, and when training stops early.

    Attributes:
        every_steps: steps between validations within a longer epoch; every epoch is validated at its end.
        patience: validations without a better NDCG before training stops.
        pool: what a user's items are ranked among.
        num_users: users drawn (seeded) for validation; all where fewer.
        k: cut-off of Recall and NDCG.
    """

    every_steps: int = Field(default=1000, ge=1)
    patience: int = Field(default=3, ge=1)
    pool: Pool = "full_corpus"
    num_users: int = Field(default=500, ge=1)
    k: int = Field(default=100, ge=1)


class OptimizerConfig(_Section):
    """Which optimiser, and what it does beside the learning rate.

    Attributes:
        name: Adam, or FTRL-proximal; where none is named, FTRL for LR and Adam for every other model.
        weight_decay: of Adam, decoupled from the gradient (Loshchilov and Hutter 2019).
        interaction_rate: learning rate of what works on pairs, as a multiple of ``learning_rate``: all that is not of a
            tower, such as RankTower's cross-attention and temperature.
        schedule: of Adam's learning rates: ``constant``, or ``cosine``, which takes them to 0 at the last step of
            ``max_epochs`` (Loshchilov and Hutter 2017, without restarts).
        warmup_steps: of Adam, first steps over which the learning rates rise in a straight line.
        beta: of FTRL; see ``FTRLProximal`` for when it should be below the paper's 1.
        l1, l2: of FTRL.
    """

    name: Literal["adam", "ftrl"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    interaction_rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    beta: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    l1: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _refuse_options_of_the_other(self) -> OptimizerConfig:
        for key in {"adam": ("beta", "l1", "l2"), "ftrl": ("weight_decay", "schedule", "warmup_steps")}[self.name]:
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                raise ConfigError(f"optimizer.{key}: optimizer.name {self.name!r} has no such option, got {value}")
        return self


class TrainConfig(ConfigFile):
    """A whole training run; the defaults are the paper's protocol (METHOD §7).

    Attributes:
        model: which model, by ``name``, and its shape; RankTower where no name is given.
        embedding_widths: of features by name, in the model and in the retrieval model; every other feature has the
            paper's width of ``embedding_width``. A model with a ``field_width`` of its own maps them to it.
        warm_start: begin with the field embeddings of the retrieval model, which saw the same training split; the
            paper begins with random ones.
        history_dropout: share of each user's history that is hidden from a training step, drawn anew each time. A
            history holds the very positives that the list asks for, and without it the model learns to read them off.
        checkpoint_every_steps: steps that a kill can cost at most.
    """

    unions: ClassVar[frozenset[str]] = frozenset({"model"})

    model: ModelConfig = RankTowerConfig()
    loss: HybridOptions = HybridOptions()
    sampling: SamplingOptions = SamplingOptions()
    retrieval: RetrievalConfig = RetrievalConfig()
    validation: ValidationConfig = ValidationConfig()
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), validate_default=True)
    embedding_widths: Mapping[str, PositiveInt] = Field(default_factory=dict)
    warm_start: bool = False
    history_dropout: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    batch_lists: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=20, ge=1)
    checkpoint_every_steps: int = Field(default=100, ge=1)

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_the_optimizer(cls, optimizer: Any, info: ValidationInfo) -> Any:
        """LR's own, FTRL, unless the configuration names one."""
        given = optimizer.model_dump(exclude_unset=True) if isinstance(optimizer, OptimizerConfig) else optimizer
        if isinstance(info.data.get("model"), LRConfig) and isinstance(given, dict):
            return {"name": "ftrl", **given}
        return optimizer

    @model_validator(mode="after")
    def _check_objective(self) -> TrainConfig:
        """ARF ranks by its own objective alone; every other model needs the configured loss."""
        weights = {name: getattr(self.loss, name) for name in ("fine_weight", "coarse_weight", "distillation_weight")}
        if isinstance(self.model, ARFConfig):
            for name in ("fine_weight", "coarse_weight"):
                if weights[name]:
                    raise ConfigError(f"loss.{name}: model.name 'arf' has its own ranking loss, got {weights[name]}")
        elif not any(weights.values()):
            raise ConfigError(f"loss: model.name {self.model.name!r} needs a weight above 0, got {weights}")
        return self
