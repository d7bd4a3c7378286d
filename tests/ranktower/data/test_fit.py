"""Fitting: bin edges, vocabularies and histories, from the training split alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.data.dataset import TEST, TRAIN, UNUSED, VALIDATION, Interactions
from ranktower.data.feature_spec import Feature
from ranktower.data.field_encoder import Ragged
from ranktower.data.fit import equal_frequency_edges, fit_side, table_columns, training_history


def test_edges_of_eight_values_in_four_bins() -> None:
    values = np.array([8, 3, 1, 7, 5, 2, 6, 4], dtype=float)
    assert equal_frequency_edges(values, 4).tolist() == [3, 5, 7]


@pytest.mark.parametrize(
    ("values", "num_bins", "edges"),
    [
        ([], 4, []),
        ([5.0], 4, []),
        ([5.0] * 9, 4, []),
        ([1.0, 2.0], 1, []),
        ([1.0, 2.0], 2, [2.0]),
        ([1.0, 2.0], 32, [2.0]),
        ([0, 0, 0, 0, 0, 0, 1, 9], 4, [1.0]),
        ([0, 0, 0, 0, 5, 5, 5, 5], 4, [5.0]),
    ],
)
def test_equal_edges_are_merged_and_no_bin_is_empty(values: list[float], num_bins: int, edges: list[float]) -> None:
    assert equal_frequency_edges(np.array(values, dtype=float), num_bins).tolist() == edges


@given(values=st.sets(st.integers(-(10**6), 10**6), min_size=1, max_size=200), num_bins=st.integers(1, 40))
def test_distinct_values_fall_evenly(values: set[int], num_bins: int) -> None:
    numbers = np.array(sorted(values), dtype=float)
    edges = equal_frequency_edges(numbers, num_bins)
    counts = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=len(edges) + 1)
    if len(values) >= num_bins:
        assert len(counts) == num_bins
        assert counts.max() - counts.min() <= 1
    else:
        assert counts.tolist() == [1] * len(values)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=60), num_bins=st.integers(1, 12))
def test_edges_increase_and_every_bin_is_filled(values: list[int], num_bins: int) -> None:
    numbers = np.array(values, dtype=float)
    edges = equal_frequency_edges(numbers, num_bins)
    assert len(edges) <= num_bins - 1
    assert np.all(np.diff(edges) > 0)
    counts = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=len(edges) + 1)
    assert counts.min() > 0


def test_only_rows_shown_in_training_are_fitted() -> None:
    features = (
        Feature(name="c", kind="categorical"),
        Feature(name="x", kind="continuous", num_bins=2),
        Feature(name="t", kind="multi_categorical", max_length=2),
    )
    columns = {
        "c": ["b", "a", "hidden", None],
        "x": np.array([1.0, 3.0, 1e9, np.nan]),
        "t": Ragged(["p", "q", "hidden", "r", "p", "cut"], np.array([2, 0, 1, 3])),
    }
    c, x, t = fit_side(columns, features, np.array([1, 2, 0, 5])).fields
    assert c.vocabulary == ("a", "b")
    assert x.edges == (3.0,)
    assert t.vocabulary == ("p", "q", "r")
    assert (t.kind, t.max_length) == ("multi_categorical", 2)


def test_min_count_counts_training_impressions() -> None:
    features = (Feature(name="c", kind="categorical", min_count=3),)
    columns = {"c": ["a", "a", "b", "c", "c"]}
    assert fit_side(columns, features, np.array([1, 1, 3, 2, 1])).fields[0].vocabulary == ("b", "c")


def test_min_count_of_bags_and_histories() -> None:
    column = Ragged(["p", "q", "p", "q"], np.array([2, 2]))
    impressions = np.array([3, 1])
    bag = Feature(name="t", kind="multi_categorical", min_count=4)
    assert fit_side({"t": column}, (bag,), impressions).fields[0].vocabulary == ("p", "q")
    # Two histories hold each item, however many impressions their users had.
    for least, vocabulary in ((2, ("p", "q")), (3, ())):
        history = Feature(name="t", kind="history", min_count=least)
        assert fit_side({"t": column}, (history,), impressions).fields[0].vocabulary == vocabulary


def test_columns_of_a_table() -> None:
    frame = pl.DataFrame(
        {
            "big": [2**62 + 1, None, 5],
            "whole": [3, 4, 5],
            "flag": [True, False, None],
            "x": pl.Series([1, None, 3], dtype=pl.Int32),
            "tags": [["a", None, "b"], None, []],
            "empty": [None, None, None],
            "ignored": [1, 2, 3],
        }
    )
    features = [
        Feature(name="big", kind="categorical"),
        Feature(name="whole", kind="categorical"),
        Feature(name="flag", kind="categorical"),
        Feature(name="x", kind="continuous"),
        Feature(name="tags", kind="multi_categorical"),
        Feature(name="empty", kind="multi_categorical"),
        Feature(name="past", kind="history"),
    ]
    columns = table_columns(frame, features)
    assert set(columns) == {"big", "whole", "flag", "x", "tags", "empty"}
    encoder = fit_side({**columns, "past": Ragged([], np.zeros(3, dtype=int))}, features, np.ones(3, dtype=int))
    vocabularies = {field.name: field.vocabulary for field in encoder.fields}
    assert vocabularies["big"] == (str(2**62 + 1), "5")
    assert vocabularies["whole"] == ("3", "4", "5")
    assert vocabularies["flag"] == ("0", "1")
    assert vocabularies["tags"] == ("a", "b")
    encoded = encoder.encode(columns, 3)
    assert encoded.codes[:, :3].tolist() == [[1, 1, 2], [0, 2, 1], [2, 3, 0]]
    assert encoded.codes[:, 3].tolist() == [1, 0, 2]
    assert encoded.lengths["tags"].tolist() == [2, 0, 0]
    assert encoded.lengths["empty"].tolist() == [0, 0, 0]


def rows(*entries: tuple[int, int, int, float, int, int]) -> Interactions:
    """Interactions from (user, item, time stamp, feedback, split, stage)."""
    user, item, timestamp, feedback, split, stage = (np.array(column) for column in zip(*entries, strict=True))
    return Interactions(
        user_row=user.astype(np.int32),
        item_row=item.astype(np.int32),
        stage=stage.astype(np.uint8),
        split=split.astype(np.uint8),
        feedback=feedback.astype(np.float32),
        teacher_scores=np.full(len(user), np.nan, dtype=np.float32),
        timestamp=timestamp.astype(np.int64),
    )


def test_a_history_is_the_training_positives_most_recent_first() -> None:
    interactions = rows(
        (0, 0, 10, 1.0, TRAIN, 0),
        (0, 1, 30, 2.0, TRAIN, 0),
        (0, 2, 20, 0.0, TRAIN, 0),  # shown, no feedback
        (0, 3, 40, 1.0, VALIDATION, 0),
        (0, 4, 50, 1.0, TEST, 0),
        (2, 4, 5, 1.0, TRAIN, 0),
        (2, 3, 5, 1.0, TRAIN, 0),  # the same moment: lower item row first
        (2, 1, 9, 1.0, UNUSED, 0),
        (2, 0, 9, 1.0, TRAIN, 1),  # a candidate
    )
    history = training_history(interactions, np.array(["a", "b", "c", "d", "e"], dtype=object), 4)
    assert list(history.values) == ["b", "a", "d", "e"]
    assert history.lengths.tolist() == [2, 0, 2, 0]
    shown = training_history(interactions, np.array(["a", "b", "c", "d", "e"], dtype=object), 4, of="impressions")
    assert list(shown.values) == ["b", "c", "a", "d", "e"]
    assert shown.lengths.tolist() == [3, 0, 2, 0]
