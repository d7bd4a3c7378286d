"""The last step of the readers."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.assembly import assemble, check_unique
from ranktower.errors import DataError

SPEC = FeatureSpec(
    user_features=(Feature(name="age", kind="continuous"),),
    item_features=(Feature(name="tag", kind="multi_categorical"),),
    feedback={"click": 1.0},
)
USERS = pl.DataFrame({"user_id": [2, 1], "age": [20, 10]})
ITEMS = pl.DataFrame({"item_id": ["a"], "tag": [["x"]]})


def test_rows_are_sorted_and_marked_as_impressions() -> None:
    rows = pl.DataFrame(
        {
            "click": [1, 0, 0, 1],
            "item_id": ["a", "a", "a", "a"],
            "timestamp": [5, 5, 1, 9],
            "user_id": [1, 1, 2, 1],
            "extra": [0, 0, 0, 0],
        }
    )
    tables = assemble(USERS, ITEMS, rows, SPEC)
    assert tables.interactions.columns == ["user_id", "item_id", "timestamp", "stage", "click"]
    assert tables.interactions.rows() == [
        (1, "a", 5, "impression", 0),
        (1, "a", 5, "impression", 1),
        (1, "a", 9, "impression", 1),
        (2, "a", 1, "impression", 0),
    ]
    assert tables.users.rows() == [(2, 20), (1, 10)]


def test_ids_of_the_log_alone_get_empty_features_in_order() -> None:
    rows = pl.DataFrame({"user_id": [9, 5, 1], "item_id": ["c", "b", "a"], "timestamp": [1, 2, 3], "click": [0, 0, 0]})
    tables = assemble(USERS, ITEMS, rows, SPEC)
    assert tables.users.rows() == [(2, 20), (1, 10), (5, None), (9, None)]
    assert tables.items.rows() == [("a", ["x"]), ("b", None), ("c", None)]


def test_the_first_repeated_id_is_named() -> None:
    frame = pl.DataFrame({"user_id": [4, 5, 4, 5]})
    with pytest.raises(DataError) as error:
        check_unique(frame, "user_id", Path("users.csv"))
    assert str(error.value) == "users.csv, column 'user_id', row 2: duplicate id 4"


def test_distinct_ids_pass() -> None:
    frame = pl.DataFrame({"user_id": ["4", "5"]})
    assert check_unique(frame, "user_id", Path("users.csv")) is frame
