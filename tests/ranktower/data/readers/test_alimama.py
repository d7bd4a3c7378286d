"""Alimama: hand-written files in the official format."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ranktower.data.readers.alimama import read
from ranktower.data.tables import validate_tables
from ranktower.errors import DataError

Writer = Callable[[str, str], Path]

IMPRESSIONS = (
    "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
    "581738,1494137644,1,430548_1007,1,0\n"
    "449818,1494638778,3,430548_1007,0,1\n"
    "449818,1494638778,3,430548_1007,0,1\n"
    "581738,1494137000,3,430539_1007,1,0\n"
)
ADS = (
    "adgroup_id,cate_id,campaign_id,customer,brand,price\n"
    "1,6406,83237,1,95471,170.0\n"
    "3,6406,83237,1,NULL,199.5\n"
    "9,6407,83238,2,5,0.01\n"
)
# The official header ends in a blank; empty fields are missing values.
USERS = (
    "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    "new_user_class_level \n"
    "234,0,5,2,5,,3,0,3\n"
    "581738,5,2,2,2,1,3,1,\n"
)


@pytest.fixture
def folder(write: Writer, tmp_path: Path) -> Path:
    write("raw_sample.csv", IMPRESSIONS)
    write("ad_feature.csv", ADS)
    write("user_profile.csv", USERS)
    return tmp_path


def test_impressions_with_clicks(folder: Path) -> None:
    tables = read(folder)
    validate_tables(tables, folder)
    assert tables.interactions.columns == ["user_id", "item_id", "timestamp", "stage", "click"]
    assert tables.interactions.rows() == [
        (449818, 3, 1494638778000, "impression", 1),
        (581738, 3, 1494137000000, "impression", 0),
        (581738, 1, 1494137644000, "impression", 0),
    ]
    assert tables.spec.feedback == {"click": 1.0}


def test_ads_with_their_gaps(folder: Path) -> None:
    tables = read(folder)
    assert tables.items.columns == ["item_id", "cate_id", "campaign_id", "customer", "brand", "price"]
    assert tables.items.rows() == [
        (1, 6406, 83237, 1, 95471, 170.0),
        (3, 6406, 83237, 1, None, 199.5),
        (9, 6407, 83238, 2, 5, 0.01),
    ]


def test_a_user_without_a_profile_is_kept_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ranktower"):
        users = read(folder).users
    assert users["user_id"].to_list() == [234, 581738, 449818]
    assert users.row(0) == (234, 0, 5, 2, 5, None, 3, 0, 3)
    assert users.row(2)[1:] == (None,) * 8
    assert "1 values of user_id are in the log only" in caplog.text
    assert "raw_sample.csv: 4 rows, 1 exact duplicates dropped" in caplog.text


def test_the_place_on_the_page_is_no_feature(folder: Path) -> None:
    spec = read(folder).spec
    names = [feature.name for feature in (*spec.user_features, *spec.item_features)]
    assert "pid" not in names
    assert names.count("user_id") == names.count("item_id") == 1


@pytest.mark.parametrize("name", ["raw_sample.csv", "ad_feature.csv", "user_profile.csv"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(error.value) == f"{name}: no such file in {folder} or its sub-folder data (plain or .gz)"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("raw_sample.csv", IMPRESSIONS + "1,2,3,p,0,4\n", "column 'clk', row 4: '4' is neither 0 nor 1"),
        ("raw_sample.csv", IMPRESSIONS + "1,2,3,p,0\n", "row 4: 6 fields expected, 5 found"),
        ("ad_feature.csv", ADS + "10,1,1,1,1,cheap\n", "column 'price', row 3: 'cheap' is not a finite number"),
        ("ad_feature.csv", ADS + "3,1,1,1,1,1.0\n", "column 'adgroup_id', row 3: duplicate id 3"),
        ("user_profile.csv", USERS + "234,0,5,2,5,,3,0,3\n", "column 'userid', row 2: duplicate id 234"),
        ("user_profile.csv", USERS + "NULL,0,5,2,5,,3,0,3\n", "column 'userid', row 2: a value is missing"),
    ],
)
def test_a_bad_row_is_named(folder: Path, name: str, content: str, where: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(error.value) == f"{folder / name}, {where}"
