"""Merging repeated pairs, the activity filter and the per-user split."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranktower.data.dataset import TEST, TRAIN, VALIDATION
from ranktower.data.split import active_users, merge_pairs, split_impressions

WEIGHTS = {"click": 1.0, "buy": 2.5}
COLUMNS = ("user_row", "item_row", "timestamp", "stage", "click", "buy", "teacher_scores")
SCHEMA = {
    "user_row": pl.Int32,
    "item_row": pl.Int32,
    "timestamp": pl.Int64,
    "stage": pl.UInt8,
    "click": pl.Int64,
    "buy": pl.Boolean,
    "teacher_scores": pl.Float32,
}


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def merged(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return merge_pairs(frame(rows), WEIGHTS).to_dicts()


def test_distinct_pairs_stay_as_they_are() -> None:
    assert merged([(1, 0, 7, 0, 1, True, 0.5), (0, 3, 9, 1, None, None, None)]) == [
        {"user_row": 0, "item_row": 3, "timestamp": 9, "stage": 1, "teacher_scores": None, "feedback": 0.0},
        {"user_row": 1, "item_row": 0, "timestamp": 7, "stage": 0, "teacher_scores": 0.5, "feedback": 3.5},
    ]


def test_a_repeated_pair_keeps_the_most_feedback_the_first_time_and_the_mean_score() -> None:
    rows = [(0, 0, 9, 0, 1, False, 0.25), (0, 0, 5, 0, 0, True, None), (0, 0, 7, 0, None, None, 0.75)]
    assert merged(rows) == [
        {"user_row": 0, "item_row": 0, "timestamp": 5, "stage": 0, "teacher_scores": 0.5, "feedback": 3.5}
    ]


def test_a_pair_logged_at_several_stages_is_at_the_furthest() -> None:
    rows = [(0, 0, 1, 2, 0, False, None), (0, 0, 2, 1, 0, False, None), (0, 0, 3, 0, 1, False, 0.5)]
    assert merged(rows) == [
        {"user_row": 0, "item_row": 0, "timestamp": 3, "stage": 0, "teacher_scores": 0.5, "feedback": 1.0}
    ]


entries = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 9),
    st.integers(0, 3),
    st.sampled_from([0, 1, None]),
    st.sampled_from([True, False, None]),
    st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
)


@settings(max_examples=60)
@given(rows=st.lists(entries, min_size=1, max_size=25), data=st.data())
def test_merging_equals_a_loop_in_any_order(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[row[:2]].append(dict(zip(COLUMNS, row, strict=True)))
    expected = []
    for (user, item), group in sorted(groups.items()):
        stage = min(row["stage"] for row in group)
        group = [row for row in group if row["stage"] == stage]
        scores = [row["teacher_scores"] for row in group if row["teacher_scores"] is not None]
        feedback = sum(max(float(row[name] or 0) for row in group) * weight for name, weight in WEIGHTS.items())
        timestamp = min(row["timestamp"] for row in group)
        expected.append((user, item, timestamp, stage, sum(scores) / len(scores) if scores else None, feedback))
    result = merge_pairs(frame(rows), WEIGHTS)
    assert [tuple(row[:4]) for row in result.rows()] == [row[:4] for row in expected]
    for row, wanted in zip(result.rows(), expected, strict=True):
        assert row[4] == (None if wanted[4] is None else pytest.approx(wanted[4], abs=1e-7))
        assert row[5] == wanted[5]
    shuffled = data.draw(st.permutations(rows))
    assert merge_pairs(frame(shuffled), WEIGHTS).equals(result)


def test_active_users() -> None:
    user_row = np.array([0, 0, 0, 1, 1, 3], dtype=np.int32)
    positive = np.array([True, True, False, False, True, True])

    def active(min_impressions: int, min_positives: int) -> list[bool]:
        return active_users(
            user_row, positive, num_users=4, min_impressions=min_impressions, min_positives=min_positives
        ).tolist()

    assert active(2, 1) == [True, True, False, False]
    assert active(2, 2) == [True, False, False, False]
    assert active(1, 1) == [True, True, False, True]
    assert active(0, 0) == [True, True, True, True]
    assert active(4, 0) == [False, False, False, False]


def split(counts: list[int], seed: int = 0, train: float = 0.7, validation: float = 0.1) -> list[list[int]]:
    """The splits of users with so many impressions, a list for each."""
    user_row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    codes = split_impressions(user_row, train_fraction=train, validation_fraction=validation, seed=seed)
    assert codes.dtype == np.uint8
    return [codes[user_row == user].tolist() for user in range(len(counts))]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 0, 1)), (5, (4, 0, 1)), (10, (7, 1, 2)), (30, (21, 3, 6)),
     (95, (67, 9, 19)), (100, (70, 10, 20))],
)  # fmt: skip
def test_sizes_of_the_default_split(count: int, sizes: tuple[int, int, int]) -> None:
    codes = split([4, count, 4])[1]
    assert (codes.count(TRAIN), codes.count(VALIDATION), codes.count(TEST)) == sizes


def test_other_fractions() -> None:
    assert split([10], train=1.0, validation=0.0) == [[TRAIN] * 10]
    codes = split([10], train=0.5, validation=0.5)[0]
    assert (codes.count(TRAIN), codes.count(VALIDATION), codes.count(TEST)) == (5, 5, 0)


def test_the_seed_decides() -> None:
    assert split([50, 50], seed=1) == split([50, 50], seed=1)
    assert split([50, 50], seed=1) != split([50, 50], seed=2)
    first, second = split([50, 50], seed=1)
    assert first != second


def test_every_place_is_equally_likely_to_be_tested() -> None:
    shares = np.mean([[code == TEST for code in user] for user in split([10] * 20_000)], axis=0)
    # Five standard deviations of a binomial share of 0.2 over 20,000 users.
    np.testing.assert_allclose(shares, 0.2, atol=5 * (0.2 * 0.8 / 20_000) ** 0.5)


def test_no_impressions_at_all() -> None:
    codes = split_impressions(np.empty(0, dtype=np.int32), train_fraction=0.7, validation_fraction=0.1, seed=0)
    assert codes.tolist() == []
