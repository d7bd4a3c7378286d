"""Configuration of a training run: one small YAML file, validated when it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ranktower.data.sampling import SamplingOptions
from ranktower.errors import ConfigError
from ranktower.losses import HybridOptions
from ranktower.models import RankTowerConfig, TwoTowerConfig

Pool = Literal["full_corpus", "impressions"]
POOLS: tuple[Pool, ...] = get_args(Pool)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetrievalConfig(_Section):
    """The two-tower retrieval model that draws candidate samples (METHOD §4: softmax with sampled negatives).

    Attributes:
        model: its shape.
        epochs: passes over the training split's positives.
        batch_pairs: positives a step.
        num_negatives: items drawn uniformly a step, shared by its positives.
        learning_rate: of Adam.
        num_retrieved: candidates kept a user, best first, before the sampler draws from them.
    """

    model: TwoTowerConfig = TwoTowerConfig()
    epochs: int = Field(default=3, ge=1)
    batch_pairs: int = Field(default=1024, ge=1)
    num_negatives: int = Field(default=2048, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
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


class TrainConfig(_Section):
    """A whole training run; the defaults are the paper's protocol (METHOD §7).

    Attributes:
        warm_start: begin with the field embeddings of the retrieval model, which saw the same training split; the
            paper begins with random ones.
        checkpoint_every_steps: steps that a kill can cost at most.
    """

    model: RankTowerConfig = RankTowerConfig()
    loss: HybridOptions = HybridOptions()
    sampling: SamplingOptions = SamplingOptions()
    retrieval: RetrievalConfig = RetrievalConfig()
    validation: ValidationConfig = ValidationConfig()
    warm_start: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    batch_lists: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=20, ge=1)
    checkpoint_every_steps: int = Field(default=100, ge=1)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a YAML file; keys left out keep their defaults.

        Raises:
            ConfigError: the file is missing or no YAML, or a key is unknown or its value wrong; names file, key, value.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such configuration file") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
        try:
            return cls.model_validate({} if content is None else content)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}, got {item['input']!r}"
                for item in error.errors()
            )
            raise ConfigError(f"{path}: {problems}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def dump(self, path: Path) -> None:
        """Write every key with its value, the defaults too, aside and renamed."""
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        aside.replace(path)

    def digest(self) -> str:
        """SHA-256 of the configuration: runs with the same digest on the same data give the same result."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
