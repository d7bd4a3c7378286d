"""Who asks and for what: ids of a release by their popularity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.local import IDS_FILE, map_keys
from ranktower.errors import ConfigError
from ranktower.registry import Registry
from ranktower.release import TABLES

# Which ids are the popular ones, the same in every run and every process.
_POPULARITY_SEED = 0


class Population:
    """Ids whose popularity follows Zipf: of ``n`` ids the one of rank ``k`` is drawn with probability ~ 1 / k^s."""

    def __init__(self, ids: NDArray[np.generic], *, exponent: float) -> None:
        """``ids`` [n], integers or bytes, at least one; which id has which rank is drawn once and for all."""
        self._by_rank = np.random.default_rng(_POPULARITY_SEED).permutation(len(ids))
        self._ids = ids
        weights = np.arange(1, len(ids) + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weights) / weights.sum()

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self._ids)

    def draw(self, random: np.random.Generator) -> str | int:
        """One id."""
        return self._named(self._ranks(random, 1))[0]

    def draw_distinct(self, random: np.random.Generator, count: int) -> list[str | int]:
        """``count`` ids, none twice, each drawn by popularity from those that are left.

        At most half of the ids are given: the least popular ones would be waited for without end.
        """
        count = min(count, max(len(self) // 2, 1))
        drawn = np.empty(0, dtype=np.int64)
        while True:
            # Drawing again what was drawn already is the same as drawing from the rest.
            drawn = np.concatenate([drawn, self._ranks(random, 2 * count)])
            ranks, first = np.unique(drawn, return_index=True)
            if len(ranks) >= count:
                return self._named(drawn[np.sort(first)[:count]])

    def _ranks(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        # The last sum may fall short of 1 by rounding.
        ranks = np.searchsorted(self._cumulative, random.random(count), side="right")
        return np.minimum(ranks, len(self) - 1)

    def _named(self, ranks: NDArray[np.int64]) -> list[str | int]:
        found = self._ids[self._by_rank[ranks]]
        ids: list[str | int] = [one.decode() for one in found.tolist()] if found.dtype.kind == "S" else found.tolist()
        return ids


def release_populations(registry: Path, model: str, *, exponent: float) -> dict[Side, Population]:
    """The users and items of the release that a model's pointer names.

    Raises:
        ConfigError: no release is promoted, or it has no table of one of them.
        ReleaseError: pointer or table cannot be read.
    """
    pointer = Registry(registry).current(model)
    if pointer is None:
        raise ConfigError(f"--registry {registry}: no promoted release of model {model!r}")
    folder = Registry(registry).release_dir(model, pointer.release)
    populations: dict[Side, Population] = {}
    for side, name in TABLES.items():
        keys = map_keys(folder / name / IDS_FILE) if (folder / name).is_dir() else np.empty(0, dtype=np.int64)
        if not len(keys):
            raise ConfigError(f"--registry {registry}: {folder / name}: no {side}s to ask for")
        populations[side] = Population(keys, exponent=exponent)
    return populations
