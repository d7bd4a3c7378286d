"""Rows of results and how their figures are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.experiment.plan import Tuned, row_runs
from offline.experiment.protocol import Protocol, Row, Table
from offline.experiment.results import Results, unpack

# What has not been run.
DASH = "–"


@dataclass(frozen=True)
class RowResults:
    """The results of one row, one for each seed that has been run.

    Attributes:
        row: of the protocol.
        train_users: share of the users it was trained on.
        model: its model's configuration, without the name, as JSON.
        by_seed: results by seed.
    """

    row: Row
    train_users: float
    model: dict[str, Any]
    by_seed: dict[int, dict[str, Any]]

    def values(self, *path: str) -> list[float]:
        """A figure of every seed; those without it are left out."""
        found = []
        for result in self.by_seed.values():
            value: Any = result
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                found.append(float(value))
        return found

    def mean(self, *path: str) -> float | None:
        """Mean of a figure over seeds."""
        values = self.values(*path)
        return float(np.mean(values)) if values else None

    def per_user(self, metric: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """A figure in the full corpus ``[num_seeds, num_users]``, for the given seeds and every test user."""
        return np.stack([unpack(self.by_seed[seed]["per_user"][metric]) for seed in seeds])


def table_results(protocol: Protocol, table: Table, results: Results, tuned: Tuned) -> list[RowResults]:
    """The results of a table's rows, in the protocol's order, for every seed that has any."""
    seeds = 1 + max((result["seed"] for result in results.by_key.values()), default=-1)
    rows = []
    for row in table.rows:
        by_share: dict[float, dict[int, dict[str, Any]]] = {share: {} for share in table.train_users}
        for seed in range(seeds):
            for run in row_runs(protocol, table, row, tuned, seed=seed):
                if (found := results.find(run)) is not None:
                    by_share[run.train_users][seed] = found
        config = protocol.config(row.model, tuned=tuned.get(row.model, {}), change=row.change, seed=0)
        rows += [RowResults(row, share, config.model.model_dump(mode="json"), of) for share, of in by_share.items()]
    return rows


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation (of a sample) over seeds; of one seed the value alone."""
    if not values:
        return DASH
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def number(value: float | None, form: str = ",.0f") -> str:
    """A figure, or a dash."""
    return DASH if value is None else f"{value:{form}}"


def percent(value: float | None) -> str:
    """A relative difference with its sign, or a dash."""
    return DASH if value is None else f"{100 * value:+.1f} %"


def probability(value: float) -> str:
    """A p value; below a thousandth as a power of ten."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value >= 1e-300 else "< 1e-300"
