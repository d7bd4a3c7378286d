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
    """The prepared data and the teacher that runs stand on; None where the data bring their own soft labels."""

    data_id: str
    teacher_id: str | None


@dataclass(frozen=True)
class PlannedRun:
    """One training run and its test.

    Attributes:
        name, title: of the row that asks for it.
        config: with its seed.
        test: what it is measured on.
        train_users: share of the users it trains on.
        test_users: share of the users it is tested on, a part of the former.
    """

    name: str
    title: str
    config: TrainConfig
    test: TestOptions
    train_users: float = 1.0
    test_users: float = 1.0

    def key(self, data: DataIdentity) -> str:
        """SHA-256 over all that the result depends on.

        Values that are their option's default are left out, so that an option added later leaves the keys as they are.
        """
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        config["model"] = {"name": self.config.model.name, **config.get("model", {})}
        content = [data.data_id, data.teacher_id, config, self.test.model_dump(mode="json", exclude_defaults=True)]
        shares = [self.train_users, self.test_users]
        return hashlib.sha256(json.dumps([*content, *shares], sort_keys=True).encode()).hexdigest()


def planned_runs(protocol: Protocol, table: Table, tuned: Tuned, *, seeds: int) -> list[PlannedRun]:
    """The runs of a table, all rows of the first seed before the next: a stopped experiment has whole tables."""
    seeds = min(seeds, table.seeds or seeds)
    return [
        run for seed in range(seeds) for row in table.rows for run in row_runs(protocol, table, row, tuned, seed=seed)
    ]


def row_runs(protocol: Protocol, table: Table, row: Row, tuned: Tuned, *, seed: int) -> Iterator[PlannedRun]:
    """The runs of one row with one seed, one for each share of the users."""
    config = protocol.config(row.model, tuned=tuned.get(row.model, {}), change=row.change, seed=seed)
    for share in table.train_users:
        name = row.name if share == 1 else f"{row.name}-users{share:g}"
        yield PlannedRun(name, row.title, config, protocol.test, share, min(table.train_users))
