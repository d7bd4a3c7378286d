"""Ranking metrics of many users at once, in numpy alone.

All take ``scores [B, n]`` (one row a user, one column an item of the user's pool), ``labels [B, n]`` (the feedback, at
least 0; positive = relevant) and ``mask [B, n]`` (True = a real item), and give one float64 per user, NaN for a user to
whom the metric does not apply; ``mean_over_users`` leaves those out.

Ties cannot flatter. A metric is its expected value when equal scores are put in random order, computed exactly: no
order of the columns and no rule about labels decides, and a model that scores all items alike gets what a random
ranking gets (McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the
presence of tied scores").

A NaN score means that the item was not scored. It is never retrieved and earns nothing, even where fewer than k items
are left, and its label still counts in the denominator. Infinite scores are ordinary scores.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


def recall_at_k(scores: Array, labels: Array, *, mask: Mask, k: int) -> Floats:
    """Recall@k [B]: the part of a user's positives that stands among the k best scores; NaN without a positive.

    The denominator is the number of positives, also where it is larger than k.

    Raises:
        ValueError: shapes that differ, a mask that is not boolean, k below 1, a real item's label that is below 0, NaN
            or infinite.
    """
    _check(scores, mask, k)
    positive = _real_labels(labels, mask) > 0
    found = (_membership(scores, mask, k) * positive).sum(axis=1)
    return _ratio(found, positive.sum(axis=1))


def ndcg_at_k(
    scores: Array, labels: Array, *, mask: Mask, k: int, gain: Literal["linear", "exponential"] = "linear"
) -> Floats:
    """NDCG@k [B]: ``sum_{r <= k} gain_r / log2(r + 1)`` over its value in the best order; NaN without a positive.

    The gain is the label itself (graded feedback) by default, or ``2^label - 1``. The best order is over all of the
    user's labels, those of items without a score included.

    Raises:
        ValueError: as ``recall_at_k``, or ``gain`` is none of the two.
    """
    _check(scores, mask, k)
    gains = _real_labels(labels, mask)
    if gain == "exponential":
        gains = np.exp2(gains) - 1
    elif gain != "linear":
        raise ValueError(f"gain must be 'linear' or 'exponential', got {gain!r}")
    discounts = 1 / np.log2(np.arange(2, min(k, gains.shape[1]) + 2))
    depth = len(discounts)
    dcg = _expected_by_rank(scores, gains, mask)[:, :depth] @ discounts
    ideal = -np.sort(-gains, axis=1)[:, :depth] @ discounts
    return _ratio(dcg, ideal)


def overlap_at_k(scores: Array, other_scores: Array, *, mask: Mask, k: int) -> Floats:
    """Overlap@k [B]: the part of their first ``min(k, n)`` items that two rankings share, n the user's real items.

    An item that a tie puts only partly into a ranking's first k shares the smaller of its two parts. So two equal
    rankings overlap fully, ties or not, and one without ties against one that scores all alike overlaps by chance
    alone. NaN for a user without a real item.

    Raises:
        ValueError: shapes that differ, a mask that is not boolean, k below 1.
    """
    _check(scores, mask, k)
    _check(other_scores, mask, k)
    shared = np.minimum(_membership(scores, mask, k), _membership(other_scores, mask, k)).sum(axis=1)
    return _ratio(shared, np.minimum(k, mask.sum(axis=1)))


def mean_over_users(values: Floats) -> float:
    """Mean of the users to whom the metric applies (not NaN); NaN if there is none."""
    applies = ~np.isnan(values)
    return float(values[applies].mean()) if applies.any() else float("nan")


def _membership(scores: Array, mask: Mask, k: int) -> Floats:
    """Probability [B, n] that an item is among its user's k best when ties are broken at random."""
    keys = _ascending_keys(scores, mask)
    num_scored = (~np.isnan(keys)).sum(axis=1)
    last = np.minimum(k, num_scored) - 1
    if not keys.size:
        return np.zeros(keys.shape)
    # The k-th best key is the threshold. Where nothing is scored it is NaN (the index -1), below and equal to no key.
    threshold = np.sort(keys, axis=1)[np.arange(len(keys)), last][:, None]
    inside, tied = keys < threshold, keys == threshold
    places = (last + 1 - inside.sum(axis=1)) / np.maximum(tied.sum(axis=1), 1)
    membership: Floats = inside + tied * places[:, None]
    return membership


def _expected_by_rank(scores: Array, gains: Floats, mask: Mask) -> Floats:
    """Expected gain [B, n] at each rank: the gains by descending score, runs of equal scores replaced by their mean."""
    keys = _ascending_keys(scores, mask)
    if not keys.size:
        return np.zeros(keys.shape)
    order = np.argsort(keys, axis=1)
    keys = np.take_along_axis(keys, order, axis=1)
    earned = np.where(np.isnan(keys), 0.0, np.take_along_axis(gains, order, axis=1))
    # A run starts at the first rank of every user, so that no run reaches over two users.
    starts = np.ones(keys.shape, dtype=np.bool_)
    starts[:, 1:] = keys[:, 1:] != keys[:, :-1]
    first = np.flatnonzero(starts)
    sizes = np.diff(first, append=keys.size)
    return np.repeat(np.add.reduceat(earned.ravel(), first) / sizes, sizes).reshape(keys.shape)


def _ascending_keys(scores: Array, mask: Mask) -> Array:
    """Negated scores [B, n], NaN where there is no item or no score: numpy sorts NaN behind everything else."""
    values = scores if np.issubdtype(scores.dtype, np.floating) else scores.astype(np.float64)
    return np.where(mask, -values, np.asarray(np.nan, dtype=values.dtype))


def _real_labels(labels: Array, mask: Mask) -> Floats:
    if labels.shape != mask.shape:
        raise ValueError(f"labels have the shape {labels.shape}, the mask {mask.shape}")
    real = np.where(mask, labels, 0).astype(np.float64)
    wrong = np.argwhere(~((real >= 0) & np.isfinite(real)))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"labels must be finite and at least 0: the one in row {row}, column {column} is {real[row, column]}"
        )
    return real


def _check(scores: Array, mask: Mask, k: int) -> None:
    if scores.ndim != 2 or scores.shape != mask.shape:
        raise ValueError(f"scores and mask must have one shape [B, n]: they have {scores.shape} and {mask.shape}")
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean, True = a real item: its dtype is {mask.dtype}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")


def _ratio(part: Array, whole: Array) -> Floats:
    """``part / whole`` [B], NaN where ``whole`` is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio
