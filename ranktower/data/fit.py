"""Fit the feature encoder: vocabularies and bin edges from the users and items of the training impressions alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ranktower.data.dataset import TRAIN, Interactions
from ranktower.data.encoder import Columns, SideEncoder
from ranktower.data.feature_spec import Feature, HistoryOf
from ranktower.data.field_encoder import FieldEncoder, Ragged, Values, factorise, ragged


def table_columns(frame: pl.DataFrame, features: Sequence[Feature]) -> dict[str, Values | Ragged]:
    """The feature columns of a table as the encoder takes them (histories have no column and are left out)."""
    return {feature.name: _column(frame[feature.name], feature) for feature in features if feature.kind != "history"}


def _column(column: pl.Series, feature: Feature) -> Values | Ragged:
    if feature.kind == "continuous":
        return column.cast(pl.Float64).to_numpy()
    if feature.kind == "multi_categorical":
        if column.dtype == pl.Null:
            return Ragged([], np.zeros(len(column), dtype=np.int64))
        lists = column.list.drop_nulls()
        lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
        return Ragged(_flat(lists.filter(lists.list.len() > 0).explode()), lengths)
    return _flat(column)


def _flat(column: pl.Series) -> Values:
    # An integer column with gaps would come out of to_numpy as floats and lose its large values.
    if column.null_count() == 0 and (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return column.to_numpy()
    return column.to_list()


def training_history(
    interactions: Interactions, item_ids: NDArray[np.object_], num_users: int, *, of: HistoryOf = "positives"
) -> Ragged:
    """For each user the items of the training split's impressions, most recent first (ties: by item row).

    Args:
        interactions: all; only impressions with split TRAIN are read.
        item_ids: canonical ids by item row.
        num_users: rows of the result; a user without such items has an empty one.
        of: those with positive feedback, or all.
    """
    shown = (interactions.split == TRAIN) & (interactions.stage == 0)
    rows = np.flatnonzero(shown & (interactions.feedback > 0) if of == "positives" else shown)
    users, items = interactions.user_row[rows], interactions.item_row[rows]
    order = np.lexsort((items, -interactions.timestamp[rows], users))
    return Ragged(item_ids[items[order]], np.bincount(users, minlength=num_users))


def fit_side(columns: Columns, features: Sequence[Feature], num_impressions: NDArray[np.integer]) -> SideEncoder:
    """Fit the encoder of one side.

    Args:
        columns: the values of all users or items, by feature name, histories included.
        features: the features of this side.
        num_impressions: training impressions of each user or item; those without any contribute nothing.
    """
    return SideEncoder(tuple(_fit_field(feature, columns[feature.name], num_impressions) for feature in features))


def _fit_field(feature: Feature, column: Values | Ragged, num_impressions: NDArray[np.integer]) -> FieldEncoder:
    if feature.kind == "continuous":
        numbers = np.asarray(column, dtype=np.float64)[num_impressions > 0]
        edges = equal_frequency_edges(numbers[~np.isnan(numbers)], feature.num_bins)
        return FieldEncoder(name=feature.name, kind=feature.kind, edges=tuple(edges.tolist()))
    if feature.kind == "categorical":
        values = column.values if isinstance(column, Ragged) else column
        vocabulary = _vocabulary(values, num_impressions, feature.min_count)
        return FieldEncoder(name=feature.name, kind=feature.kind, vocabulary=vocabulary)
    flat = ragged(column)
    # A history counts once: its user's other impressions say nothing about the items in it.
    weights = np.ones_like(num_impressions) if feature.kind == "history" else num_impressions
    kept = _places(flat.lengths) < feature.max_length
    repeated = np.where(kept, np.repeat(weights, flat.lengths), 0)
    vocabulary = _vocabulary(flat.values, repeated, feature.min_count)
    return FieldEncoder(name=feature.name, kind=feature.kind, vocabulary=vocabulary, max_length=feature.max_length)


def _places(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place of each flat value within its row."""
    places: NDArray[np.int64] = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return places


def _vocabulary(values: Values, weights: NDArray[np.integer], min_count: int) -> tuple[str, ...]:
    """Canonical categories with a total weight of at least ``min_count``, sorted, so that no row order shows."""
    texts, inverse = factorise(values)
    known = inverse >= 0
    counts = np.bincount(inverse[known], weights=weights[known], minlength=len(texts))
    return tuple(sorted(text for text, count in zip(texts, counts.tolist(), strict=True) if count >= min_count))


def equal_frequency_edges(values: NDArray[np.float64], num_bins: int) -> NDArray[np.float64]:
    """Inner edges of bins that hold equally many of the given values; a bin is closed on its left.

    Edge k is the value of rank ``floor(k n / num_bins)``, so n distinct values fall into the bins as evenly as can be.
    Equal edges are merged, and no edge lies at the minimum, so no bin is empty.

    Args:
        values: finite values [n] in any order; may be empty.
        num_bins: number of bins, before equal edges are merged.

    Returns:
        At most ``num_bins - 1`` increasing edges.
    """
    if len(values) == 0:
        return np.empty(0, dtype=np.float64)
    ordered = np.sort(values)
    edges: NDArray[np.float64] = np.unique(ordered[np.arange(1, num_bins) * len(ordered) // num_bins])
    return np.asarray(edges[edges > ordered[0]])
