"""The protocol of the experiments: a YAML file with every number of them, validated when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ranktower.data.feature_spec import Feature
from ranktower.data.prepare import PrepareOptions
from ranktower.data.simulator import SimulatorOptions
from ranktower.errors import ConfigError
from ranktower.training.config import Pool, TrainConfig
from ranktower.training.config_file import ConfigFile
from ranktower.training.evaluation import EvaluationOptions
from ranktower.training.tuning import SearchRange, TuningOptions

PROTOCOL = Path(__file__).with_name("protocol.yaml")
# The model that a row means which names none.
RANKTOWER = "ranktower"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetEntry(_Section):
    """What is known of a data set beside its files.

    Attributes:
        title: its name in the pages; the data set's name where empty.
        prepare: activity filter and split.
        user_features: features that the users get beside those of the tables, such as histories.
        base: what the training configuration says of this data set's own features, merged into the shared base.
        simulator: the cascade to simulate, for the data set that has no files.
        teacher: train the teacher ensemble for it; without, what soft labels its tables bring are used.
        teacher_config: of ``ranktower teach``, its defaults where left out.
        teacher_revision: raise it when the teacher's code or defaults change, and all that it taught is done anew.
    """

    title: str = ""
    prepare: PrepareOptions = PrepareOptions()
    user_features: tuple[Feature, ...] = Field(default=(), strict=False)
    base: dict[str, Any] = {}
    simulator: SimulatorOptions | None = None
    teacher: bool = True
    teacher_config: dict[str, Any] = {}
    teacher_revision: int = 0


class ModelEntry(_Section):
    """A model of the tables.

    Attributes:
        base: what of its configuration differs from the shared base.
        search: what is tuned, by its path in the configuration as in ``a.b``.
        revision: raise it when the code of the model or of its loss changes, and its runs are done anew.
    """

    title: str
    base: dict[str, Any] = {}
    search: dict[str, SearchRange] = {}
    revision: int = Field(default=0, ge=0)


class Row(_Section):
    """One line of a table: a model's tuned configuration with ``change`` merged into it.

    ``paper`` holds the paper's Recall@100 and NDCG@100, by data set.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    model: str = RANKTOWER
    change: dict[str, Any] = {}
    paper: dict[str, tuple[float, float]] = {}


class Table(_Section):
    """Rows in the paper's order.

    Attributes:
        reference: name of the row that the others are compared with; nothing is compared where it is left out.
        seeds: at most so many seeds, for what the paper does not have.
        train_users: shares of the users to train on, each a run of every row; tested on those of the smallest.
    """

    title: str
    reference: str | None = None
    rows: tuple[Row, ...]
    seeds: int | None = Field(default=None, ge=1)
    train_users: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _check(self) -> Table:
        names = [row.name for row in self.rows]
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is none of the rows: {', '.join(names)}")
        if not all(0 < share <= 1 for share in self.train_users):
            raise ValueError(f"train_users must lie in (0, 1], got {list(self.train_users)}")
        return self


class UserTuning(TuningOptions):
    """Tuning on a subsample of users; ``change`` is merged into every trial's configuration."""

    num_users: int = Field(default=4000, ge=1)
    change: dict[str, Any] = Field(default_factory=dict)


class ConsistencyOptions(_Section):
    """Over how many test users, and how many retrieved candidates of each, a model is compared with the teacher."""

    num_users: int = Field(default=300, ge=1)
    num_candidates: int = Field(default=1000, ge=1)


class CalibrationOptions(_Section):
    """Over the impressions of how many users, and in how many bins of equal size, probabilities are looked at."""

    num_users: int = Field(default=3000, ge=1)
    num_bins: int = Field(default=15, ge=2)


class TestOptions(_Section):
    """What a trained model is measured on.

    Attributes:
        max_users: test users, drawn by ``seed``; all that have a positive in the test split where null.
        k: cut-off of Recall and NDCG in the full corpus.
        impressions_k: cut-off among a user's own test impressions, of which there are few.
        consistency, calibration: what else is looked at.
    """

    __test__ = False  # no test case, for all its name

    max_users: int | None = Field(default=None, ge=1)
    k: int = Field(default=100, ge=1)
    impressions_k: int = Field(default=10, ge=1)
    seed: int = 0
    consistency: ConsistencyOptions = ConsistencyOptions()
    calibration: CalibrationOptions = CalibrationOptions()

    def evaluation(self, pool: Pool) -> EvaluationOptions:
        """How a pool is evaluated."""
        k = self.k if pool == "full_corpus" else self.impressions_k
        return EvaluationOptions(pool=pool, k=k, max_users=self.max_users, seed=self.seed)


class CostOptions(_Section):
    """How serving is timed: rounds in which every model's scorer runs so often, one user and so many candidates."""

    num_candidates: int = Field(default=1000, ge=1)
    num_rounds: int = Field(default=20, ge=1)
    runs_a_round: int = Field(default=20, ge=1)
    reference: str = "two_tower"


class SignificanceOptions(_Section):
    """Draws of the bootstrap over users and seeds, and the seed of its own."""

    num_draws: int = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)


class Protocol(ConfigFile):
    """All experiments. ``tables`` are the paper's, ``extras`` what goes beyond them."""

    seeds: int = Field(default=3, ge=1)
    datasets: dict[str, DatasetEntry] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, ModelEntry]
    tables: dict[str, Table]
    extras: dict[str, Table] = Field(default_factory=dict)
    tuning: UserTuning = UserTuning()
    test: TestOptions = TestOptions()
    significance: SignificanceOptions = SignificanceOptions()
    cost: CostOptions = CostOptions()

    @model_validator(mode="after")
    def _check(self) -> Protocol:
        rows = [row for table in (*self.tables.values(), *self.extras.values()) for row in table.rows]
        for name in (*(row.model for row in rows), self.cost.reference):
            if name not in self.models:
                raise ValueError(f"model {name!r} is none of {', '.join(self.models)}")
        return self

    def dataset(self, name: str) -> DatasetEntry:
        """The entry of a data set; the defaults for one that the protocol does not know."""
        entry = self.datasets.get(name, DatasetEntry())
        return entry if entry.title else entry.model_copy(update={"title": name})

    def on(self, name: str) -> Protocol:
        """The protocol with a data set's own base."""
        return self.model_copy(update={"base": merged(self.base, self.dataset(name).base)})

    def table(self, name: str) -> Table:
        """A table of the paper or beyond it.

        Raises:
            ConfigError: there is none of this name.
        """
        tables = self.tables | self.extras
        if name not in tables:
            raise ConfigError(f"table {name!r}: the protocol has {', '.join(tables)}")
        return tables[name]

    def config(self, model: str, *, tuned: Mapping[str, Any], change: Mapping[str, Any], seed: int) -> TrainConfig:
        """The configuration of a model: shared base, own base, ``tuned`` values by path, ``change``, seed.

        Raises:
            ConfigError: they make no training configuration; names model, key and value.
        """
        content = merged(self.base, self.models[model].base)
        for path, value in tuned.items():
            content = merged(content, nested(path, value))
        seeds = {"seed": seed, "sampling": {"seed": seed}}
        return TrainConfig.parse(merged(merged(content, change), seeds), where=f"protocol, model {model}")


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``change``, mapping by mapping; neither is changed."""
    content = dict(base)
    for key, value in change.items():
        mapping = isinstance(value, Mapping) and isinstance(content.get(key), Mapping)
        content[key] = merged(content[key], value) if mapping else value
    return content


def nested(path: str, value: Any) -> dict[str, Any]:
    """``"a.b", 1`` to ``{"a": {"b": 1}}``."""
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}
