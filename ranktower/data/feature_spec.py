"""The feature specification: a YAML file that names the columns of the canonical tables and their kinds.

```yaml
user_features:
  - {name: user_active_degree, kind: categorical}
  - {name: register_days, kind: continuous, num_bins: 32}
  - {name: history, kind: history, max_length: 20}
  - {name: exposures, kind: history, of: impressions, max_length: 50}
item_features:
  - {name: item_id, kind: categorical, min_count: 2}
  - {name: tag, kind: multi_categorical, max_length: 8}
feedback: {long_view: 1.0, is_like: 1.0}
impression_label: 1.0
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ranktower.errors import ConfigError

FeatureKind = Literal["categorical", "continuous", "multi_categorical", "history"]
HistoryOf = Literal["positives", "impressions"]

RESERVED_COLUMNS = ("user_id", "item_id", "timestamp", "stage", "teacher_scores")
"""Columns of the interactions table that cannot be a feedback."""


class Feature(BaseModel):
    """One feature column of one side.

    ``continuous`` becomes equal-frequency bins; ``categorical`` and ``multi_categorical`` get a vocabulary;
    ``history`` has no column of its own: it is the list of items to which the user gave positive feedback in the
    training split, or of all that were shown to the user there, most recent first. The id column of a side may be named
    as a categorical feature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, max_length=128)
    kind: FeatureKind
    num_bins: int = Field(default=32, ge=1, le=65536)
    """Continuous only: bins before equal edges are merged."""
    max_length: int = Field(default=8, ge=1, le=4096)
    """Multi-valued kinds only: the first ``max_length`` values of a row are kept."""
    min_count: int = Field(default=1, ge=1)
    """Kinds with a vocabulary: training impressions that must show a value for it to get an index."""
    of: HistoryOf = "positives"
    """History only: which impressions of the training split it lists."""

    @model_validator(mode="after")
    def _only_a_history_lists_impressions(self) -> Feature:
        if self.of != "positives" and self.kind != "history":
            raise ValueError(f"of: only a history has it, the feature {self.name!r} is {self.kind}")
        return self


def _distinct_names(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise ValueError(f"the feature {feature.name!r} is named twice")
        seen.add(feature.name)
    return features


def _no_history(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    for feature in features:
        if feature.kind == "history":
            raise ValueError(f"the feature {feature.name!r} is a history, which only users have")
    return features


def _usable_feedback(feedback: dict[str, float]) -> dict[str, float]:
    for column in feedback:
        if column in RESERVED_COLUMNS or not column:
            raise ValueError(f"the column {column!r} cannot be a feedback")
    return feedback


Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Features = Annotated[tuple[Feature, ...], Field(strict=False), AfterValidator(_distinct_names)]


class FeatureSpec(BaseModel):
    """Which columns of the canonical tables are features, and which are feedback with which weight.

    The hard label of an impression is ``impression_label`` plus the weighted sum of its feedback columns; every
    other stage has label 0 (section 4.2.1 of the paper).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    user_features: Features = ()
    item_features: Annotated[Features, AfterValidator(_no_history)] = ()
    feedback: Annotated[dict[str, Weight], Field(min_length=1), AfterValidator(_usable_feedback)]
    impression_label: Weight = 1.0

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Read a specification from YAML.

        Raises:
            ConfigError: the file is missing, is not YAML, or holds an unknown key, kind or value.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot read the feature specification: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: the feature specification is not a mapping, got {_short(content)}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(f"{path}: {_first_problem(error)}") from error

    def dump(self, path: Path) -> None:
        """Write the specification as YAML that ``load`` reads back to an equal one."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """The YAML text ``dump`` writes: keys in the order of the class, values that are defaults left out."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return f"{_key(first['loc'])}: {message}, got {_short(first['input'])}"


def _key(location: Sequence[int | str]) -> str:
    """``("user_features", 0, "kind")`` as a person writes it: ``user_features[0].kind``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
