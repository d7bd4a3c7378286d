"""Taobao UserBehavior: hand-written rows in the official format."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ranktower.data.readers.taobao import read
from ranktower.data.tables import validate_tables
from ranktower.errors import DataError

Writer = Callable[[str, str], Path]

ROWS = (
    "1,2268318,2520377,pv,1511544070\n"
    "1,2333346,2520771,pv,1511561733\n"
    "1,2333346,2520771,cart,1511561799\n"
    "1,2333346,2520771,cart,1511561799\n"
    "100,2268318,2520377,buy,1511572885\n"
    "100,2268318,2520377,fav,-5\n"
)


@pytest.mark.parametrize("name", ["UserBehavior.csv", "UserBehavior.csv.gz"])
def test_behaviours_become_impressions_with_feedback(write: Writer, tmp_path: Path, name: str) -> None:
    write(name, ROWS)
    tables = read(tmp_path)
    validate_tables(tables, tmp_path)
    assert tables.interactions.rows() == [
        (1, 2268318, 1511544070000, "impression", 0, 0, 0),
        (1, 2333346, 1511561733000, "impression", 0, 0, 0),
        (1, 2333346, 1511561799000, "impression", 1, 0, 0),
        (100, 2268318, -5000, "impression", 0, 1, 0),
        (100, 2268318, 1511572885000, "impression", 0, 0, 1),
    ]
    assert tables.interactions.columns[4:] == ["cart", "fav", "buy"]
    assert tables.spec.feedback == {"cart": 1.0, "fav": 1.0, "buy": 1.0}


def test_users_and_items_come_from_the_log(write: Writer, tmp_path: Path) -> None:
    write("UserBehavior.csv", ROWS)
    tables = read(tmp_path)
    assert tables.users.rows() == [(1,), (100,)]
    assert tables.items.rows() == [(2268318, 2520377), (2333346, 2520771)]
    assert [feature.name for feature in tables.spec.item_features] == ["item_id", "category_id"]


def test_an_item_of_two_categories_gets_the_smaller(write: Writer, tmp_path: Path) -> None:
    write("UserBehavior.csv", "1,5,80,pv,1511544070\n2,5,70,pv,1511544071\n")
    assert read(tmp_path).items.rows() == [(5, 70)]


def test_duplicates_are_counted(write: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("UserBehavior.csv", ROWS)
    with caplog.at_level(logging.INFO, logger="ranktower"):
        read(tmp_path)
    assert "UserBehavior.csv: 6 rows, 1 exact duplicates dropped" in caplog.text


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ("1,2,3,view,1511544070", "column 'behavior', row 6: 'view' is none of pv, cart, fav, buy"),
        ("1,2,3,pv,yesterday", "column 'timestamp', row 6: 'yesterday' is not an integer"),
        ("u1,2,3,pv,1", "column 'user_id', row 6: 'u1' is not an integer"),
        ("1,2,,pv,1", "column 'category_id', row 6: a value is missing"),
        ("1,2,3,pv", "row 6: 5 fields expected, 4 found"),
    ],
)
def test_a_bad_row_is_named(write: Writer, tmp_path: Path, row: str, where: str) -> None:
    path = write("UserBehavior.csv", ROWS + row + "\n" + ROWS)
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == f"{path}, {where}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^UserBehavior\.csv: no such file in "):
        read(tmp_path)
