"""Full-stage sampling (METHOD §4): each training list mixes impressions, candidates and random items of one user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.dataset import TRAIN, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.errors import ConfigError

IMPRESSION, RANKING_CANDIDATE, PRERANKING_CANDIDATE, RANDOM = (np.uint8(code) for code in range(len(STAGES)))


@dataclass(frozen=True)
class SamplingOptions:
    """How many items of each stage a list may hold.

    ``max_impressions`` caps a user's impressions by a fresh sample each epoch that keeps every positive (a user with
    more positives than the cap keeps them all); 0 in the other two leaves that stage out.

    Raises:
        ConfigError: a value is negative, or ``max_impressions`` is not positive.
    """

    max_impressions: int = 60
    num_candidates: int = 20
    num_random: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_impressions", 1), ("num_candidates", 0), ("num_random", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class ListBatch:
    """Lists of B users, padded to the longest of them (L); everything at ``mask`` False is padding."""

    user_rows: NDArray[np.int32]
    """[B]"""
    item_rows: NDArray[np.int32]
    """[B, L]; 0 in padding. No item stands twice in a list."""
    labels: NDArray[np.float32]
    """[B, L] hard labels; 0 off the impressions and in padding."""
    teacher_scores: NDArray[np.float32]
    """[B, L]; NaN where absent."""
    stage: NDArray[np.uint8]
    """[B, L] index in STAGES; random's in padding."""
    mask: NDArray[np.bool_]
    """[B, L]; real items stand first: impressions, then candidates, then random items."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Training rows of one kind, grouped by user: those of user u are ``starts[u]`` to ``starts[u + 1]``."""

    starts: NDArray[np.int64]
    item: NDArray[np.int32]
    label: NDArray[np.float32]
    teacher: NDArray[np.float32]
    stage: NDArray[np.uint8]
    positive: NDArray[np.bool_]


class FullStageSampler:
    """Draws the training lists of an epoch; sees the training split only.

    What it leaves out of candidates and random items are the user's *training* interactions: an item missing because
    of validation or test would tell training that the user saw it.
    """

    def __init__(
        self, dataset: PreparedDataset, options: SamplingOptions, candidates: NDArray[np.int32] | None = None
    ) -> None:
        """Index the training split.

        Args:
            dataset: the prepared data set. Where it has logged candidates, those are the candidates of its users.
            options: sizes and seed.
            candidates: else item rows [num_users, C] from a retrieval model, -1 = none; without them a list has no
                candidates. Of more than ``num_candidates`` a fresh sample is drawn each epoch.

        Raises:
            ConfigError: ``candidates`` does not fit the data set.
        """
        num_users = len(dataset.users)
        if candidates is not None and (candidates.ndim != 2 or len(candidates) != num_users):
            raise ConfigError(f"candidates: expected one row for each of {num_users} users, got {candidates.shape}")
        self.options = options
        self._num_items = len(dataset.items)
        stage = dataset.interactions.stage
        train = dataset.interactions.split == TRAIN
        self._impressions = _grouped(dataset, train & (stage == IMPRESSION))
        self._logged = _grouped(dataset, train & np.isin(stage, [RANKING_CANDIDATE, PRERANKING_CANDIDATE]))
        self._candidates = candidates if len(self._logged.item) == 0 else None
        if self._candidates is not None and self._candidates.max(initial=-1) >= self._num_items:
            raise ConfigError(f"candidates: item row {self._candidates.max()} of {self._num_items} items")
        self._users = np.flatnonzero(np.diff(self._impressions.starts)).astype(np.int32)
        user_row, item_row = dataset.interactions.user_row[train], dataset.interactions.item_row[train]
        self._seen_items = item_row[np.lexsort((item_row, user_row))]
        self._seen_starts = np.concatenate([[0], np.cumsum(np.bincount(user_row, minlength=num_users))])

    @property
    def num_users(self) -> int:
        """Users with a training impression: one list each an epoch."""
        return len(self._users)

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-len(self._users) // batch_size)

    def epoch(self, epoch: int, batch_size: int, *, first_batch: int = 0) -> Iterator[ListBatch]:
        """The batches of one epoch, users shuffled; they depend on (seed, epoch, batch size) alone.

        Args:
            epoch: number of the epoch, from 0.
            batch_size: users in a batch.
            first_batch: batches to leave out at the start at no cost, to go on within an epoch after a kill.
        """
        order = np.random.default_rng([self.options.seed, epoch]).permutation(self._users)
        for batch in range(first_batch, self.num_batches(batch_size)):
            generator = np.random.default_rng([self.options.seed, epoch, batch + 1])
            yield self._batch(order[batch * batch_size : (batch + 1) * batch_size], generator)

    def _batch(self, users: NDArray[np.int32], generator: np.random.Generator) -> ListBatch:
        shown = self._impression_sample(users, generator)
        if len(self._logged.item):
            picked = _sample_within(*_rows_of(self._logged.starts, users), self.options.num_candidates, generator)
        else:
            picked = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        seen = self._seen_keys(users)
        retrieved = self._retrieved(users, seen, generator)
        taken = self._keys(np.nonzero(retrieved >= 0)[0], retrieved[retrieved >= 0])
        drawn = self._random(len(users), np.sort(np.concatenate([seen, taken])), generator)
        parts = [
            (shown[0], *_values(self._impressions, shown[1])),
            (picked[0], *_values(self._logged, picked[1])),
            _unlabelled(retrieved, PRERANKING_CANDIDATE),
            _unlabelled(drawn, RANDOM),
        ]
        return _padded(users, [np.concatenate(column) for column in zip(*parts, strict=True)])

    def _impression_sample(
        self, users: NDArray[np.int32], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places, rows = _rows_of(self._impressions.starts, users)
        always = self._impressions.positive[rows]
        return _sample_within(places, rows, self.options.max_impressions, generator, always=always)

    def _retrieved(
        self, users: NDArray[np.int32], seen: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int32]:
        """Item rows [B, num_candidates] from the retrieval model, -1 = none."""
        if self._candidates is None or 0 in (self.options.num_candidates, self._candidates.shape[1]):
            return np.empty((len(users), 0), dtype=np.int32)
        items = self._candidates[users]
        keys = self._keys(np.arange(len(users))[:, None], items)
        usable = (items >= 0) & ~_contains(seen, keys) & _first_of_row(items)
        return _sampled(items, usable, self.options.num_candidates, generator)

    def _random(self, num_users: int, excluded: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int32]:
        """Item rows [B, num_random], -1 = none left: uniform without replacement from what is not excluded.

        ``excluded`` are the sorted keys of what the users have seen and of the candidates already in their lists.
        """
        wanted, num_items = self.options.num_random, self._num_items
        if wanted == 0:
            return np.empty((num_users, 0), dtype=np.int32)
        # The first distinct ones of independent draws are a sample without replacement; a third more than wanted is
        # nearly always enough, and the few users it is not enough for are drawn again the exact way.
        items = generator.integers(num_items, size=(num_users, wanted + wanted // 3 + 8), dtype=np.int32)
        usable = _first_of_row(items) & ~_contains(excluded, self._keys(np.arange(num_users)[:, None], items))
        drawn = _front(items, usable, wanted)
        num_left = num_items - np.bincount(excluded // num_items, minlength=num_users)
        for place in np.flatnonzero(np.sum(drawn >= 0, axis=1) < np.minimum(wanted, num_left)):
            every = np.arange(num_items, dtype=np.int32)
            free = ~_contains(excluded, self._keys(place, every))
            chosen = generator.permutation(every[free])[:wanted]
            drawn[place] = -1
            drawn[place, : len(chosen)] = chosen
        return drawn

    def _seen_keys(self, users: NDArray[np.int32]) -> NDArray[np.int64]:
        """Sorted keys of what a batch's users have seen: few enough to be searched in the processor's cache."""
        places, rows = _rows_of(self._seen_starts, users)
        return self._keys(places, self._seen_items[rows])

    def _keys(self, places: NDArray[np.integer] | np.integer, items: NDArray[np.int32]) -> NDArray[np.int64]:
        """One number for a place in the batch and an item."""
        return np.asarray(places, dtype=np.int64) * self._num_items + items


def _grouped(dataset: PreparedDataset, chosen: NDArray[np.bool_]) -> _Rows:
    rows = dataset.interactions.take(np.flatnonzero(chosen))
    ends = np.cumsum(np.bincount(rows.user_row, minlength=len(dataset.users)))
    return _Rows(
        starts=np.concatenate([[0], ends]),
        item=rows.item_row,
        label=dataset.training_labels()[chosen],
        teacher=rows.teacher_scores,
        stage=rows.stage,
        positive=rows.feedback > 0,
    )


def _rows_of(starts: NDArray[np.int64], users: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of rows grouped by user, all those of the given users: place in ``users``, and row number, sorted by both."""
    counts = starts[users + 1] - starts[users]
    places = np.repeat(np.arange(len(users)), counts)
    return places, np.arange(len(places)) + np.repeat(starts[users] - (np.cumsum(counts) - counts), counts)


def _contains(ordered: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    if len(ordered) == 0:
        return np.zeros(keys.shape, dtype=bool)
    found = ordered[np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)]
    return np.asarray(found == keys)


def _sample_within(
    places: NDArray[np.int64],
    rows: NDArray[np.int64],
    limit: int,
    generator: np.random.Generator,
    always: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At most ``limit`` rows of each place, a uniform sample; rows of ``always`` are kept and count first."""
    if always is None:
        always = np.zeros(len(rows), dtype=bool)
    order = np.lexsort((np.where(always, -1.0, generator.random(len(rows))), places))
    ranks = np.arange(len(rows)) - np.searchsorted(places, places, side="left")
    kept = np.empty(len(rows), dtype=bool)
    kept[order] = (ranks < limit) | always[order]
    return places[kept], rows[kept]


def _first_of_row(items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where a value stands for the first time in its row."""
    first = np.ones(items.shape, dtype=bool)
    ordered = np.sort(items, axis=1)
    if not np.any(ordered[:, 1:] == ordered[:, :-1]):  # so it is with what was retrieved, and a sort costs little
        return first
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, 1)
    np.put_along_axis(first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], 1)
    return first


def _front(items: NDArray[np.int32], usable: NDArray[np.bool_], count: int) -> NDArray[np.int32]:
    """The first ``count`` usable items of each row, -1 behind them."""
    return _chosen(items, usable, np.argsort(~usable, axis=1, kind="stable")[:, :count])


def _sampled(
    items: NDArray[np.int32], usable: NDArray[np.bool_], count: int, generator: np.random.Generator
) -> NDArray[np.int32]:
    """A uniform sample of ``count`` usable items of each row in random order, -1 behind them."""
    keys = generator.random(items.shape) + ~usable
    least = np.argpartition(keys, min(count, keys.shape[1]) - 1, axis=1)[:, :count]
    order = np.take_along_axis(least, np.argsort(np.take_along_axis(keys, least, 1), axis=1), 1)
    return _chosen(items, usable, order)


def _chosen(items: NDArray[np.int32], usable: NDArray[np.bool_], order: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.where(np.take_along_axis(usable, order, 1), np.take_along_axis(items, order, 1), np.int32(-1))


def _values(rows: _Rows, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    return rows.item[chosen], rows.label[chosen], rows.teacher[chosen], rows.stage[chosen]


def _unlabelled(items: NDArray[np.int32], stage: np.uint8) -> tuple[NDArray[Any], ...]:
    places, columns = np.nonzero(items >= 0)
    num = len(places)
    nothing = np.zeros(num, dtype=np.float32)
    return places, items[places, columns], nothing, np.full(num, np.nan, dtype=np.float32), np.full(num, stage)


def _padded(users: NDArray[np.int32], parts: list[NDArray[Any]]) -> ListBatch:
    """From flat columns (place in the batch, item, label, teacher score, stage) to lists padded to the longest."""
    order = np.argsort(parts[0], kind="stable")
    places, items, labels, teacher, stage = (part[order] for part in parts)
    counts = np.bincount(places, minlength=len(users))
    columns = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(users), int(counts.max()))

    def scattered(values: NDArray[Any], padding: Any, dtype: type[np.generic]) -> NDArray[Any]:
        padded = np.full(shape, padding, dtype=dtype)
        padded[places, columns] = values
        return padded

    return ListBatch(
        user_rows=users,
        item_rows=scattered(items, 0, np.int32),
        labels=scattered(labels, 0.0, np.float32),
        teacher_scores=scattered(teacher, np.nan, np.float32),
        stage=scattered(stage, RANDOM, np.uint8),
        mask=scattered(np.ones(len(places), dtype=bool), False, np.bool_),
    )
