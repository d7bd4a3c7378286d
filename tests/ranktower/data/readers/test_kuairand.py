"""KuaiRand: hand-written files in the official format, and the counts of the real subset."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ranktower.data.readers.kuairand import read
from ranktower.data.tables import Tables, validate_tables
from ranktower.errors import DataError

Writer = Callable[[str, str], Path]

USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range,onehot_feat0,onehot_feat1,onehot_feat2,onehot_feat3,onehot_feat4,onehot_feat5,onehot_feat6,"
    "onehot_feat7,onehot_feat8,onehot_feat9,onehot_feat10,onehot_feat11,onehot_feat12,onehot_feat13,onehot_feat14,"
    "onehot_feat15,onehot_feat16,onehot_feat17\n"
)
USERS = USER_HEADER + (
    '7,full_active,0,1,1,514,500+,150,"[100,1k)",34,"[30,60)",799,730+,1,1,29,949,1.0,0,0,14,135,6,3,0,0.0,1.0,0.0,'
    "0.0,0.0,0.0\n"
    '8,high_active,0,-124,0,8,"(0,10]",26,"[10,100)",3,"[1,5)",231,181-365,1,0,2,1176,,0,0,31,275,5,2,2,,,,,,\n'
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag\n"
    '100,7349781,NORMAL,2022-04-10,LongImport,0.0,87433.0,720.0,1280.0,9155697141,9.0,"20,43"\n'
    "101,2103883,AD,2022-04-09,Kmovie,0.0,,720.0,1280.0,6355810746,,\n"
)
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
OLDER = "8,100,20220410,100,1649520000000,1,0,0,0,0,0,1,9000,87433,0,0,0,0,1\n"
NEWER = "7,100,20220425,0,1650812741436,1,1,0,0,0,0,0,1000,87433,0,0,0,0,1\n"
NEWEST = "7,101,20220425,0,1650812999999,0,0,0,0,0,1,0,10,0,0,0,0,0,6\n"
EXPOSURES = "user_id,pos,video_id,long_view,is_like\n8,-2,101,1,0\n8,-1,100,0,1\n7,-1,101,0,0\n"


def official(write: Writer, *, suffix: str = "", under: str = "data/") -> None:
    """The files of KuaiRand-Pure under their official names."""
    write(f"{under}user_features_pure.csv{suffix}", USERS)
    write(f"{under}video_features_basic_pure.csv{suffix}", VIDEOS)
    write(f"{under}log_standard_4_08_to_4_21_pure.csv{suffix}", LOG_HEADER + OLDER)
    write(f"{under}log_standard_4_22_to_5_08_pure.csv{suffix}", LOG_HEADER + NEWEST + NEWER + NEWER)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("under", ["", "data/"])
def test_official_files_become_canonical_tables(write: Writer, tmp_path: Path, suffix: str, under: str) -> None:
    official(write, suffix=suffix, under=under)
    tables = read(tmp_path)
    validate_tables(tables, tmp_path)
    assert tables.interactions.rows(named=True) == [
        {"user_id": 7, "item_id": 100, "timestamp": 1650812741436, "stage": "impression", "long_view": 0, "is_like": 1},
        {"user_id": 7, "item_id": 101, "timestamp": 1650812999999, "stage": "impression", "long_view": 0, "is_like": 0},
        {"user_id": 8, "item_id": 100, "timestamp": 1649520000000, "stage": "impression", "long_view": 1, "is_like": 0},
    ]
    assert tables.spec.feedback == {"long_view": 1.0, "is_like": 1.0}


def test_features_have_their_values_and_gaps(write: Writer, tmp_path: Path) -> None:
    official(write)
    tables = read(tmp_path)
    user, item = tables.users.row(1, named=True), tables.items.row(1, named=True)
    assert (user["user_id"], user["user_active_degree"], user["register_days"]) == (8, "high_active", 231)
    assert (user["is_live_streamer"], user["onehot_feat4"], user["onehot_feat17"]) == (-124, None, None)
    assert (item["item_id"], item["video_duration"], item["music_type"], item["tag"]) == (101, None, None, None)
    assert tables.items.row(0, named=True)["tag"] == ["20", "43"]


def test_nothing_that_tells_the_future_is_a_feature(write: Writer, tmp_path: Path) -> None:
    official(write)
    # A statistics file lies in the full download; it must not be looked at.
    write("data/video_features_statistic_pure.csv", "video_id,counts,show_cnt\n100,4,nonsense\n")
    write("data/log_random_4_22_to_5_08_pure.csv", "nonsense\n")
    tables = read(tmp_path)
    names = {feature.name for feature in (*tables.spec.user_features, *tables.spec.item_features)}
    assert {"user_id", "item_id", "tag", "author_id", "register_days", "onehot_feat17"} <= names
    forbidden = {"visible_status", "play_time_ms", "duration_ms", "show_cnt", "counts", "is_click", "long_view", "tab"}
    assert not names & forbidden
    assert tables.interactions.height == 3


def test_log_in_parts_as_in_the_27k_version(write: Writer, tmp_path: Path) -> None:
    write("data/user_features_27k.csv", USERS)
    write("data/video_features_basic_27k.csv", VIDEOS)
    write("data/log_standard_4_08_to_4_21_27k_part1.csv", LOG_HEADER + OLDER)
    write("data/log_standard_4_08_to_4_21_27k_part2.csv", LOG_HEADER + NEWER)
    assert read(tmp_path).interactions["item_id"].to_list() == [100, 100]


def test_more_feedback_columns_on_request(write: Writer, tmp_path: Path) -> None:
    official(write)
    tables = read(tmp_path, feedback=("is_click", "long_view", "is_like"))
    assert tables.interactions["is_click"].to_list() == [1, 0, 1]
    assert list(tables.spec.feedback) == ["is_click", "long_view", "is_like"]


def subset(write: Writer) -> None:
    write("user_features_pure.csv.gz", USERS)
    write("video_features_basic_pure.csv.gz", VIDEOS)
    write("log_standard_4_25_to_5_08_pure.csv.gz", LOG_HEADER + NEWER + NEWEST)
    write("exposures_before_4_25_last50.csv.gz", EXPOSURES)


def test_exposures_come_before_the_first_day_in_their_order(write: Writer, tmp_path: Path) -> None:
    subset(write)
    rows = read(tmp_path).interactions
    # The first logged impression is of 24 April 2022, 15:05:41 UTC; that day began at 1650758400000.
    day = 1650758400000
    older = rows.filter(pl.col("timestamp") < day)
    assert older.select("user_id", "item_id", "timestamp", "long_view", "is_like").rows() == [
        (7, 101, day - 1000, 0, 0),
        (8, 101, day - 2000, 1, 0),
        (8, 100, day - 1000, 0, 1),
    ]
    assert rows.height == 5


def test_exposures_lack_other_feedback(write: Writer, tmp_path: Path) -> None:
    subset(write)
    tables = read(tmp_path, feedback=("is_click", "long_view"))
    validate_tables(tables, tmp_path)
    assert tables.interactions.select("user_id", "is_click", "long_view").rows() == [
        (7, None, 0), (7, 1, 0), (7, 0, 0), (8, None, 1), (8, None, 0),
    ]  # fmt: skip


def test_exposures_are_not_counted_beside_the_log_they_stand_for(write: Writer, tmp_path: Path) -> None:
    official(write)
    write("data/exposures_before_4_25_last50.csv.gz", EXPOSURES)
    assert read(tmp_path).interactions.height == 3


def test_a_video_without_features_is_kept_and_counted(
    write: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    official(write)
    write("data/log_standard_4_08_to_4_21_pure.csv", LOG_HEADER + OLDER.replace(",100,", ",555,", 1))
    with caplog.at_level(logging.INFO, logger="ranktower"):
        tables = read(tmp_path)
    validate_tables(tables, tmp_path)
    assert tables.items["item_id"].to_list() == [100, 101, 555]
    assert tables.items["author_id"].to_list()[2] is None
    assert "1 values of item_id are in the log only" in caplog.text


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("user_features_pure.csv", "user_features_*.csv"),
        ("video_features_basic_pure.csv", "video_features_basic_*.csv"),
        ("log_standard_*", "log_standard_*.csv"),
    ],
)
def test_a_missing_file_is_named(write: Writer, tmp_path: Path, missing: str, named: str) -> None:
    official(write)
    for path in (tmp_path / "data").glob(missing):
        path.unlink()
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == f"{named}: no such file in {tmp_path} or its sub-folder data (plain or .gz)"


def test_two_versions_in_one_folder_are_refused(write: Writer, tmp_path: Path) -> None:
    official(write)
    write("data/user_features_1k.csv", USERS)
    with pytest.raises(DataError, match=r"found user_features_1k\.csv, user_features_pure\.csv; keep one version"):
        read(tmp_path)


def test_a_duplicate_user_is_named(write: Writer, tmp_path: Path) -> None:
    official(write)
    path = write("data/user_features_pure.csv", USERS + USERS.splitlines()[1] + "\n")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == f"{path}, column 'user_id', row 2: duplicate id 7"


def test_a_bad_log_value_is_named(write: Writer, tmp_path: Path) -> None:
    official(write)
    path = write("data/log_standard_4_22_to_5_08_pure.csv", LOG_HEADER + NEWER + NEWER.replace("1650812741436", "soon"))
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == f"{path}, column 'time_ms', row 1: 'soon' is not an integer"


def test_a_missing_log_column_is_named(write: Writer, tmp_path: Path) -> None:
    official(write)
    write("data/log_standard_4_22_to_5_08_pure.csv", LOG_HEADER.replace("long_view", "view") + NEWER)
    with pytest.raises(DataError, match=r"4_22_to_5_08_pure\.csv, column 'long_view': missing column"):
        read(tmp_path)


def test_a_log_name_without_its_dates_is_refused_beside_exposures(write: Writer, tmp_path: Path) -> None:
    subset(write)
    write("log_standard_april_pure.csv", LOG_HEADER + OLDER)
    with pytest.raises(
        DataError, match=r"log_standard_april_pure\.csv: the name does not go on with a month and a day"
    ):
        read(tmp_path)


# From here on the real subset, where there is one, with the counts that its own description gives.


@pytest.fixture(scope="session")
def real(kuairand_folder: Path) -> Tables:
    return read(kuairand_folder)


def test_real_sizes(real: Tables) -> None:
    assert real.users.height == 27_285
    assert real.items.height == 7_583
    assert real.interactions.height == 228_329 - 5_460 + 817_187


def test_real_duplicates_are_reported(kuairand_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ranktower"):
        read(kuairand_folder)
    assert "228329 rows, 5460 exact duplicates dropped" in caplog.text
    assert "817187 rows, 0 exact duplicates dropped" in caplog.text
    assert "their features are missing" not in caplog.text


def test_real_log_and_exposures_part_at_the_first_day(real: Tables) -> None:
    logged = real.interactions.filter(pl.col("timestamp") >= 1650758400000)
    assert logged.height == 222_869
    assert real.interactions.height - logged.height == 817_187
    assert logged["user_id"].n_unique() == 25_156
    assert logged["item_id"].n_unique() == 6_361


def test_real_activity_filter_figures(real: Tables, kuairand_folder: Path) -> None:
    # The description counts before the duplicates go, so they are put back: read straight from the file.
    log = pl.read_csv(kuairand_folder / "log_standard_4_25_to_5_08_pure.csv.gz", columns=["user_id", "long_view"])
    older = real.interactions.filter(pl.col("timestamp") < 1650758400000).select("user_id", "long_view")
    both = pl.concat([log, older.cast(pl.Int64)])
    active = both.group_by("user_id").agg(num=pl.len(), long=pl.col("long_view").sum())
    active = active.filter((pl.col("num") >= 30) & (pl.col("long") >= 5))
    assert (active.height, active["num"].sum(), active["long"].sum()) == (15_277, 837_188, 297_173)


def test_real_tables_are_valid(real: Tables) -> None:
    validate_tables(real, Path("kuairand"))


def test_real_two_readings_are_equal(real: Tables, kuairand_folder: Path) -> None:
    again = read(kuairand_folder)
    assert again.interactions.equals(real.interactions)
    assert again.users.equals(real.users)
    assert again.items.equals(real.items)
