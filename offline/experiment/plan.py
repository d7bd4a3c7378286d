"""Which runs a table asks for, and what each is known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from offline.experiment.protocol import Protocol, Row, Table, TestOptions
from ranktower.training.config import TrainConfig

# Tuned values by model, each by its path in the configuration.
Tuned = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class DataIdentity:
    """The prepared data and the teacher that runs stand on.

    Attributes:
        data_id: of the data's content, which is the same on every machine.
        teacher_key: of how the teacher is trained; None where the data bring their own soft labels. Not its
            ``teacher_id``, the hash of its scores: another machine's differ in their last bits at least, and results
            are to be found there too.
    """

    data_id: str
    teacher_key: str | None


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its test.

    Attributes:
        name, title: of the row that asks for it.
        config: with its seed.
        test: what it is measured on.
        train_users: share of the users it trains on.
        test_users: share of the users it is tested on, a part of the former.
        revision: of the model's code.
    """

    name: str
    title: str
    config: TrainConfig
    test: TestOptions
    train_users: float = 1.0
    test_users: float = 1.0
    revision: int = 0

    def key(self, data: DataIdentity) -> str:
        """SHA-256 over all that the result depends on."""
        test = self.test.model_dump(mode="json", exclude_defaults=True)
        # Left out while 0, as defaults are.
        more = [self.revision] if self.revision else []
        of = [data.data_id, data.teacher_key, identified(self.config), test, self.train_users, self.test_users]
        return _sha256([*of, *more])


def identified(config: TrainConfig) -> dict[str, Any]:
    """What tells a configuration from others.

    Values that are their option's default are left out, so that an option added later leaves the keys as they are.
    """
    content = config.model_dump(mode="json", exclude_defaults=True)
    return {**content, "model": {"name": config.model.name, **content.get("model", {})}}


def tuning_key(protocol: Protocol, model: str, data: DataIdentity) -> str:
    """SHA-256 over what the search for a model's values depends on."""
    base = protocol.config(model, tuned={}, change=protocol.tuning.change, seed=protocol.tuning.seed)
    content = [data.data_id, data.teacher_key, identified(base), protocol.tuning.model_dump(mode="json")]
    content.append({name: one.model_dump(mode="json") for name, one in protocol.models[model].search.items()})
    return _sha256(content)


def planned_runs(protocol: Protocol, table: Table, tuned: Tuned, *, seeds: int) -> list[PlannedRun]:
    """The runs of a table, all rows of the first seed before the next: a stopped experiment has whole tables."""
    seeds = min(seeds, table.seeds or seeds)
    return [
        run for seed in range(seeds) for row in table.rows for run in row_runs(protocol, table, row, tuned, seed=seed)
    ]


def row_runs(protocol: Protocol, table: Table, row: Row, tuned: Tuned, *, seed: int) -> Iterator[PlannedRun]:
    """The runs of one row with one seed, one for each share of the users."""
    config = protocol.config(row.model, tuned=tuned.get(row.model, {}), change=row.change, seed=seed)
    revision = protocol.models[row.model].revision
    for share in table.train_users:
        name = row.name if share == 1 else f"{row.name}-users{share:g}"
        yield PlannedRun(name, row.title, config, protocol.test, share, min(table.train_users), revision)


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
