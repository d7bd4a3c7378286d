"""Recall, pre-ranking, ranking, impression, click and conversion, simulated for all requests at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ranktower.data.simulator.options import SimulatorOptions
from ranktower.data.simulator.world import (
    FIRST_ITEM_ID,
    FIRST_USER_ID,
    SPEC,
    World,
    item_table,
    make_world,
    user_table,
)
from ranktower.data.tables import STAGES, Tables

# 1 January 2024, UTC, and two weeks.
_START_MS = 1_704_067_200_000
_PERIOD_MS = 14 * 86_400_000
_ROWS_PER_CHUNK = 500_000

_IMPRESSION, _RANKING_CANDIDATE, _PRERANKING_CANDIDATE = (
    STAGES.index(name) for name in ("impression", "ranking_candidate", "preranking_candidate")
)

# Pre-ranking sees the truth through twice the noise of ranking.
_PRERANKING_NOISE = 1.0
_EXPLORATION_NOISE = 0.4
_POPULAR_SHARE = 0.5
_TASTE_SHARPNESS = 2.0


@dataclass(frozen=True, eq=False)
class Simulation:
    """Canonical tables and what only a simulation knows.

    Attributes:
        tables: row r of ``users`` (``items``) is user (item) r of the world; interactions come request by request.
        positions: int16 [num_interactions], the place of an impression on its page, 0 first; -1 for candidates.
        world: the latent factors.
    """

    tables: Tables
    positions: NDArray[np.int16]
    world: World

    def true_affinity(self, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """What the user really thinks of the item, on the scale of a logit.

        Args:
            user_rows: row numbers in the users table.
            item_rows: row numbers in the items table; the two shapes broadcast.
        """
        return self.world.affinity(user_rows, item_rows)


def simulate(options: SimulatorOptions) -> Simulation:
    """Draw a world and run its cascade.

    A request of a user goes: recall draws items, half by popularity and half by popularity within the categories the
    user likes; pre-ranking keeps the best under a noisy view of the true affinity; ranking orders those by the
    teacher's logit with some exploration, and the first are shown. A shown item is looked at with a chance that falls
    with its position, clicked if it is liked, and a click may convert. Each item is logged at the furthest stage it
    reached. A user is never offered an item a second time, so a (user, item) pair has one row.

    The teacher's score is the sigmoid of the click logit (free of position bias) plus noise.
    """
    world_seed, *chunk_seeds = _seeds(options)
    rng = np.random.default_rng(world_seed)
    world = make_world(options, rng)
    users, items = user_table(world, rng), item_table(world, options, rng)
    recall = _Recall(world)
    chunks = zip(_user_chunks(options), chunk_seeds, strict=True)
    pages = [_run(world, recall, rows, options, np.random.default_rng(seed)) for rows, seed in chunks]
    interactions = pl.concat([frame for frame, _ in pages], rechunk=True)
    tables = Tables(users=users, items=items, interactions=interactions, spec=SPEC)
    return Simulation(tables, np.concatenate([positions for _, positions in pages]), world)


def _user_chunks(options: SimulatorOptions) -> Iterator[NDArray[np.int64]]:
    """User rows in blocks whose arrays fit in memory whatever the number of users."""
    size = max(1, int(_ROWS_PER_CHUNK / (options.requests_per_user * options.num_recalled)))
    for start in range(0, options.num_users, size):
        yield np.arange(start, min(start + size, options.num_users))


def _seeds(options: SimulatorOptions) -> list[np.random.SeedSequence]:
    return np.random.SeedSequence(options.seed).spawn(1 + sum(1 for _ in _user_chunks(options)))


class _Recall:
    """Draws items by popularity, overall or within one category."""

    def __init__(self, world: World) -> None:
        num_categories = world.taste.shape[1]
        self._items = np.argsort(world.category, kind="stable")
        self._edges = np.cumsum(world.popularity[self._items])
        bounds = np.searchsorted(world.category[self._items], np.arange(num_categories + 1))
        self._category_edges = np.concatenate([[0.0], self._edges])[bounds]
        self._taste = world.taste

    def draw(self, users: NDArray[np.int64], num_items: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Item rows [len(users), num_items], the same item possibly several times."""
        shape = (len(users), num_items)
        category = self._liked_categories(users, rng.random(shape))
        low, high = self._category_edges[category], self._category_edges[category + 1]
        popular = rng.random(shape) < _POPULAR_SHARE
        low, high = np.where(popular, 0.0, low), np.where(popular, self._edges[-1], high)
        places = np.searchsorted(self._edges, low + rng.random(shape) * (high - low), side="right")
        drawn: NDArray[np.int64] = self._items[np.minimum(places, len(self._items) - 1)]
        return drawn

    def _liked_categories(self, users: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        first, last = users[0], users[-1]
        weights = np.exp(_TASTE_SHARPNESS * self._taste[first : last + 1].astype(np.float64))
        shares = np.cumsum(weights, axis=1)
        shares /= shares[:, -1:]
        # Row number + cumulative share rises over all rows, so that one search serves every user.
        row = (users - first)[:, None]
        edges = (shares + np.arange(len(shares))[:, None]).reshape(-1)
        num_categories = shares.shape[1]
        found = np.searchsorted(edges, row + uniform, side="right") - row * num_categories
        liked: NDArray[np.int64] = np.clip(found, 0, num_categories - 1)
        return liked


def _run(
    world: World,
    recall: _Recall,
    user_rows: NDArray[np.int64],
    options: SimulatorOptions,
    rng: np.random.Generator,
) -> tuple[pl.DataFrame, NDArray[np.int16]]:
    """All requests of some users: their log and the positions of its rows."""
    users, times = _requests(user_rows, options, rng)
    items = recall.draw(users, options.num_recalled, rng)
    new = _first_offers(users, items, num_items=len(world.quality))
    affinity = world.affinity(users[:, None], items)
    teacher = _click_logit(affinity) + np.float32(options.teacher_noise) * _normal(items.shape, rng)
    order = _order_of_rank(affinity, teacher, new, options=options, rng=rng)
    items, new = np.take_along_axis(items, order, axis=1), np.take_along_axis(new, order, axis=1)
    affinity, teacher = np.take_along_axis(affinity, order, axis=1), np.take_along_axis(teacher, order, axis=1)

    slot = np.arange(options.num_recalled)
    later = np.where(slot < options.num_ranked, _RANKING_CANDIDATE, _PRERANKING_CANDIDATE)
    stage = np.broadcast_to(np.where(slot < options.num_impressions, _IMPRESSION, later), items.shape)[new]
    position = np.broadcast_to(slot, items.shape)[new]
    shown = stage == _IMPRESSION
    click, conversion = _respond(affinity[new], position, shown, options=options, rng=rng)
    user = np.broadcast_to(users[:, None], items.shape)[new]
    time = np.broadcast_to(times[:, None], items.shape)[new] + np.where(shown, position * 1000, 0)
    scores = pl.Series(_sigmoid(teacher[new]), dtype=pl.Float32).set(pl.Series(~shown), None)
    frame = pl.DataFrame(
        {
            "user_id": user + FIRST_USER_ID,
            "item_id": items[new] + FIRST_ITEM_ID,
            "timestamp": time,
            "stage": pl.Series(stage, dtype=pl.UInt8).cat.to(pl.Enum(STAGES)),
            "click": click.astype(np.int8),
            "conversion": conversion.astype(np.int8),
            "teacher_scores": scores,
        }
    )
    return frame, np.where(shown, position, -1).astype(np.int16)


def _requests(
    user_rows: NDArray[np.int64], options: SimulatorOptions, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User row and time (ms) of each request, by user and time."""
    counts = 1 + rng.poisson(options.requests_per_user - 1, size=len(user_rows))
    users = np.repeat(user_rows, counts)
    times = _START_MS + rng.integers(_PERIOD_MS, size=len(users))
    return users, times[np.lexsort((times, users))]


def _first_offers(users: NDArray[np.int64], items: NDArray[np.int64], *, num_items: int) -> NDArray[np.bool_]:
    """True [requests, recalled] where a user's item has not come up before, in this request or an earlier one."""
    pairs = (users[:, None] * num_items + items).reshape(-1)
    first = np.unique(pairs, return_index=True)[1]
    new = np.zeros(len(pairs), dtype=np.bool_)
    new[first] = True
    return new.reshape(items.shape)


def _order_of_rank(
    affinity: NDArray[np.float32],
    teacher: NDArray[np.float32],
    new: NDArray[np.bool_],
    *,
    options: SimulatorOptions,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Columns [requests, recalled] of each request's items in the order of the two rankers.

    What ranking puts first comes first, then what pre-ranking left over, then what was no new offer.
    """
    preranking = np.where(new, affinity + np.float32(_PRERANKING_NOISE) * _normal(new.shape, rng), -np.inf)
    order = np.argsort(-preranking, axis=1, kind="stable")
    ranking = np.where(new, teacher + np.float32(_EXPLORATION_NOISE) * _normal(new.shape, rng), -np.inf)
    passed_on = order[:, : options.num_ranked]
    by_ranking = np.argsort(-np.take_along_axis(ranking, passed_on, axis=1), axis=1, kind="stable")
    order[:, : options.num_ranked] = np.take_along_axis(passed_on, by_ranking, axis=1)
    return order


def _respond(
    affinity: NDArray[np.float32],
    position: NDArray[np.int64],
    shown: NDArray[np.bool_],
    *,
    options: SimulatorOptions,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Click and conversion of each row; never without an impression, and no conversion without a click."""
    looked_at = rng.random(len(affinity)) < (1.0 + position) ** -float(options.position_bias)
    liked = rng.random(len(affinity)) < _sigmoid(_click_logit(affinity))
    bought = rng.random(len(affinity)) < _sigmoid(affinity - np.float32(3.0))
    click = shown & looked_at & liked
    return click, click & bought


def _click_logit(affinity: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(1.2) * affinity - np.float32(2.5)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(1) / (np.float32(1) + np.exp(-logits))


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
