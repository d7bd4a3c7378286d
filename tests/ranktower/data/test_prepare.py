"""From tables to the prepared data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from ranktower.data.dataset import TEST, TRAIN, UNUSED, VALIDATION, PreparedDataset
from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.tables import Tables
from ranktower.errors import ConfigError, DataError

EVERYBODY = PrepareOptions(min_impressions=1, min_positives=0)


def pairs(dataset: PreparedDataset, keep: np.ndarray[Any, Any] | slice = slice(None)) -> list[tuple[str, str]]:
    """The (user id, item id) of interactions."""
    users = dataset.users.ids[dataset.interactions.user_row[keep]]
    items = dataset.items.ids[dataset.interactions.item_row[keep]]
    return list(zip(users, items, strict=True))


def hand_made() -> Tables:
    """User b has ten impressions and a candidate, user a one impression, user c nothing."""
    users = pl.DataFrame({"user_id": ["b", "c", "a"], "country": ["de", "secret", "fr"]})
    items = pl.DataFrame({"item_id": list(range(12)), "price": [float(price) for price in range(12)]})
    interactions = pl.DataFrame(
        {
            "user_id": ["b"] * 10 + ["a", "b", "b", "b"],
            "item_id": [*range(10), 3, 11, 10, 0],
            "timestamp": [*range(100, 90, -1), 7, 50, 60, 40],
            "stage": ["impression"] * 11 + ["preranking_candidate", "random", "impression"],
            "click": [1, 0] * 5 + [1, None, 0, 0],
        }
    )
    spec = FeatureSpec(
        user_features=(Feature(name="country", kind="categorical"), Feature(name="past", kind="history")),
        item_features=(Feature(name="item_id", kind="categorical"), Feature(name="price", kind="continuous")),
        feedback={"click": 2.0},
    )
    return Tables(users=users, items=items, interactions=interactions, spec=spec)


def test_a_hand_made_data_set() -> None:
    dataset = prepare(hand_made(), PrepareOptions(min_impressions=2, min_positives=5))
    assert dataset.users.ids.tolist() == ["a", "b", "c"]
    assert dataset.items.ids.tolist() == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]
    rows = dataset.interactions
    assert pairs(dataset)[0] == ("a", "3")
    # b's rows by time: item 0 was shown at 40 and at 100, the candidate at 50, the random item at 60.
    assert [item for _, item in pairs(dataset)[1:]] == ["0", "11", "10", "9", "8", "7", "6", "5", "4", "3", "2", "1"]
    assert rows.timestamp.tolist() == [7, 40, 50, 60, *range(91, 100)]
    assert rows.stage.tolist() == [0, 0, 2, 3] + [0] * 9
    assert rows.feedback.tolist() == [2, 2, 0, 0, 0, 2, 0, 2, 0, 2, 0, 2, 0]
    assert np.isnan(rows.teacher_scores).all()
    split = rows.split.tolist()
    assert split[0] == UNUSED  # a is not active
    assert split[2] == TRAIN  # a logged candidate of an active user
    assert split[3] == UNUSED  # a logged random item
    impressions = [split[1], *split[4:]]
    assert [impressions.count(code) for code in (TRAIN, VALIDATION, TEST)] == [7, 1, 2]
    assert dataset.info["counts"] == {
        "users": 3, "active_users": 1, "items": 12, "interactions": 13, "logged_candidates": 1,
        "train": 7, "validation": 1, "test": 2, "unused": 1,
    }  # fmt: skip
    assert dataset.info["options"]["min_positives"] == 5


def test_its_encoder_knows_the_training_split_only() -> None:
    dataset = prepare(hand_made(), PrepareOptions(min_impressions=2, min_positives=5))
    rows = dataset.interactions
    train = (rows.split == TRAIN) & (rows.stage == 0)
    shown = {item for _, item in pairs(dataset, train)}
    item_id = next(field for field in dataset.encoder.item.fields if field.name == "item_id")
    assert item_id.vocabulary == tuple(sorted(shown))
    country, past = dataset.encoder.user.fields
    assert country.vocabulary == ("de",)
    clicked = {item for _, item in pairs(dataset, train & (rows.feedback > 0))}
    assert past.vocabulary == tuple(sorted(clicked))
    # Everybody is encoded, also whoever is not active: out of vocabulary, without a history.
    assert dataset.users.features.codes[:, 0].tolist() == [0, 1, 0]
    assert dataset.users.features.lengths["past"].tolist() == [0, len(clicked), 0]


def test_every_impression_has_one_split_and_active_users_their_shares(draw_tables: Callable[..., Tables]) -> None:
    tables = draw_tables(num_users=50, num_items=80, per_user=40)
    dataset = prepare(tables, PrepareOptions(min_impressions=30, min_positives=5))
    assert len(set(pairs(dataset))) == len(pairs(dataset)) == 50 * 40
    for user in range(50):
        split = dataset.interactions.split[dataset.interactions.user_row == user].tolist()
        assert [split.count(code) for code in (TRAIN, VALIDATION, TEST)] == [28, 4, 8]


def test_the_content_is_that_of_the_tables(draw_tables: Callable[..., Tables]) -> None:
    tables = draw_tables()
    dataset = prepare(tables, EVERYBODY)
    logged = {
        (str(row["user_id"]), str(row["item_id"])): (
            row["timestamp"],
            row["click"] + 2.0 * row["buy"],
            np.float32(row["teacher_scores"]),
        )
        for row in tables.interactions.iter_rows(named=True)
    }
    rows = dataset.interactions
    values = zip(rows.timestamp.tolist(), rows.feedback.tolist(), rows.teacher_scores, strict=True)
    assert dict(zip(pairs(dataset), values, strict=True)) == logged
    keys = list(zip(rows.user_row.tolist(), rows.timestamp.tolist(), strict=True))
    assert keys == sorted(keys)


def test_the_order_of_rows_does_not_matter(draw_tables: Callable[..., Tables]) -> None:
    tables = draw_tables()
    repeated = pl.concat([tables.interactions, tables.interactions.head(50).with_columns(pl.col("teacher_scores") / 3)])
    tables = replace(tables, interactions=repeated)
    shuffled = replace(
        tables,
        users=tables.users.reverse(),
        items=tables.items.sample(fraction=1, shuffle=True, seed=1),
        interactions=tables.interactions.sample(fraction=1, shuffle=True, seed=2),
    )
    assert prepare(shuffled, EVERYBODY).data_id == prepare(tables, EVERYBODY).data_id


def test_integer_and_string_ids_are_the_same_data_set(draw_tables: Callable[..., Tables]) -> None:
    tables = draw_tables()
    text = {name: pl.col(name).cast(pl.String) for name in ("user_id", "item_id")}
    strings = replace(
        tables,
        items=tables.items.with_columns(item_id=text["item_id"]),
        interactions=tables.interactions.with_columns(user_id=text["user_id"]),
    )
    assert prepare(strings, EVERYBODY).data_id == prepare(tables, EVERYBODY).data_id


def test_the_seed_changes_the_split_only(draw_tables: Callable[..., Tables]) -> None:
    tables = draw_tables()
    one, two = (prepare(tables, replace(EVERYBODY, seed=seed)) for seed in (1, 2))
    assert one.data_id == prepare(tables, replace(EVERYBODY, seed=1)).data_id
    assert one.interactions.split.tolist() != two.interactions.split.tolist()
    assert one.interactions.item_row.tolist() == two.interactions.item_row.tolist()


def test_candidates_of_inactive_users_are_not_used() -> None:
    tables = hand_made()
    candidate = tables.interactions.tail(1).with_columns(
        user_id=pl.lit("a"), item_id=pl.lit(8, dtype=pl.Int64), stage=pl.lit("ranking_candidate")
    )
    tables = replace(tables, interactions=pl.concat([tables.interactions, candidate]))
    dataset = prepare(tables, PrepareOptions(min_impressions=2, min_positives=5))
    place = pairs(dataset).index(("a", "8"))
    assert dataset.interactions.split[place] == UNUSED


def test_nobody_is_active() -> None:
    with pytest.raises(DataError) as raised:
        prepare(hand_made())
    assert str(raised.value) == (
        "interactions.parquet: no user has at least 30 impressions and 5 positives; lower the activity filter"
    )


@pytest.mark.parametrize(("column", "side", "shown"), [("user_id", "user", "'zz'"), ("item_id", "item", "77")])
def test_unknown_ids_never_pass_even_without_validation(column: str, side: str, shown: str) -> None:
    tables = hand_made()
    values = tables.interactions[column].to_list()
    values[4] = "zz" if side == "user" else 77
    wrong = tables.interactions.with_columns(pl.Series(column, values))
    with pytest.raises(DataError) as raised:
        prepare(replace(tables, interactions=wrong), EVERYBODY)
    expected = f"interactions.parquet, column '{column}', row 4: interaction of an unknown {side} {shown}"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"min_impressions": -1}, "min_impressions: must not be negative, got -1"),
        ({"min_positives": -2}, "min_positives: must not be negative, got -2"),
        ({"seed": -3}, "seed: must not be negative, got -3"),
        ({"train_fraction": 0.0}, "train_fraction: must lie in (0, 1], got 0.0"),
        ({"train_fraction": 1.1}, "train_fraction: must lie in (0, 1], got 1.1"),
        ({"train_fraction": float("nan")}, "train_fraction: must lie in (0, 1], got nan"),
        ({"validation_fraction": -0.1}, "validation_fraction: must lie in [0, 1 - train_fraction], got -0.1"),
        ({"validation_fraction": 0.4}, "validation_fraction: must lie in [0, 1 - train_fraction], got 0.4"),
    ],
)
def test_wrong_options(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        PrepareOptions(**options)
    assert str(raised.value) == problem


def test_the_source_is_recorded() -> None:
    assert prepare(hand_made(), EVERYBODY, source={"name": "shop"}).info["source"] == {"name": "shop"}
    assert prepare(hand_made(), EVERYBODY).info["source"] == {}
