"""From logged rows to distinct pairs, and each active user's impressions to training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ranktower.data.dataset import TEST, TRAIN, VALIDATION


def merge_pairs(rows: pl.DataFrame, feedback: Mapping[str, float]) -> pl.DataFrame:
    """One row a distinct (user, item) pair, so that no pair can lie in two splits; the order of ``rows`` is immaterial.

    A pair keeps the furthest stage it reached, and of its rows of that stage the earliest time stamp, the maximum of
    each feedback column (null counts as 0) and the mean teacher score (null where no row has one).

    Args:
        rows: ``user_row``, ``item_row``, ``timestamp``, ``stage`` (index in STAGES), the feedback columns, and
            ``teacher_scores``.
        feedback: weight of each feedback column.

    Returns:
        ``user_row``, ``item_row``, ``timestamp``, ``stage``, ``teacher_scores`` and ``feedback`` (the weighted sum),
        sorted by user and item.
    """
    pair = ["user_row", "item_row"]
    weighted = pl.sum_horizontal(
        pl.col(name).cast(pl.Float64).fill_null(0) * weight for name, weight in feedback.items()
    )
    # Sorted by every column that is aggregated in floating point, so that the result does not depend on the row order.
    merged = rows.sort([*pair, "stage", "teacher_scores", "timestamp"])
    distinct = ~merged.select(pair).is_duplicated()
    repeated = merged.filter(~distinct)
    if repeated.height:
        repeated = (
            repeated.filter(pl.col("stage") == pl.col("stage").min().over(pair))
            .group_by(pair)
            .agg(
                pl.col("timestamp").min(),
                pl.col("stage").first(),
                pl.col("teacher_scores").mean(),
                *(pl.col(name).cast(pl.Int8).max() for name in feedback),
            )
        )
        single = merged.filter(distinct).with_columns(pl.col(name).cast(pl.Int8) for name in feedback)
        merged = pl.concat([single.select(repeated.columns), repeated]).sort(pair)
    return merged.select(*pair, "timestamp", "stage", "teacher_scores", weighted.cast(pl.Float32).alias("feedback"))


def active_users(
    user_row: NDArray[np.int32],
    positive: NDArray[np.bool_],
    *,
    num_users: int,
    min_impressions: int,
    min_positives: int,
) -> NDArray[np.bool_]:
    """Which users (bool [num_users]) have enough distinct impressions and enough with positive feedback.

    Args:
        user_row: user of each impression [k].
        positive: whether the impression has positive feedback [k].
        num_users: number of users.
        min_impressions: least number of impressions.
        min_positives: least number of positives.
    """
    impressions = np.bincount(user_row, minlength=num_users)
    positives = np.bincount(user_row[positive], minlength=num_users)
    return (impressions >= min_impressions) & (positives >= min_positives)


def split_impressions(
    user_row: NDArray[np.int32], *, train_fraction: float, validation_fraction: float, seed: int
) -> NDArray[np.uint8]:
    """Assign each impression at random to a split, each user on its own; uint8 [k] of TRAIN, VALIDATION, TEST.

    Of a user's n impressions the first ``round(train_fraction * n)`` of a random order are training, those up to
    ``round((train_fraction + validation_fraction) * n)`` validation, and the rest test (halves round up).

    Args:
        user_row: user of each impression [k], sorted by user and within it by anything that does not depend on the
            order of rows in a file (here: the item).
        train_fraction: share of training.
        validation_fraction: share of validation.
        seed: of the random order.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(user_row)), user_row))
    users = user_row[order]
    starts = np.searchsorted(users, users, side="left")
    counts = np.searchsorted(users, users, side="right") - starts
    ranks = np.arange(len(users)) - starts
    # A sum such as 0.7 + 0.1 may fall short of its decimal value by a rounding error; halves shall still round up.
    ends = [
        np.floor(fraction * counts + 0.5 + 1e-9) for fraction in (train_fraction, train_fraction + validation_fraction)
    ]
    split = np.empty(len(users), dtype=np.uint8)
    split[order] = np.select([ranks < ends[0], ranks < ends[1]], [TRAIN, VALIDATION], TEST)
    return split
