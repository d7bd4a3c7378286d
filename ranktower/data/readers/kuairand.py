"""KuaiRand (Gao et al., CIKM 2022, https://kuairand.com): impressions of a short-video app.

Reads KuaiRand-Pure, -1K and -27K under their official file names, and folders that hold some of their logs.

What is left out, and why: ``video_features_statistic_*`` (counts over the whole period: they would tell the future),
``log_random_*`` (its videos were put into the feed at random, not chosen by a cascade), ``visible_status`` (as of the
day the data set was made) and the ``*_range`` columns (the same figures as the columns that are binned here).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.assembly import assemble, check_unique
from ranktower.data.readers.delimited import Column, Layout, find_files, load
from ranktower.data.tables import Tables
from ranktower.errors import DataError

DEFAULT_FEEDBACK = ("long_view", "is_like")

_DAY_MS = 86_400_000
_USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_TEXTS = ("user_active_degree",)
_USER_CODES = (
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    *(f"onehot_feat{number}" for number in range(18)),
)
_VIDEO_TEXTS = ("video_type", "upload_dt", "upload_type")
_VIDEO_CODES = ("author_id", "music_id", "music_type")
_VIDEO_SIZES = ("video_duration", "server_width", "server_height")

_USER_LAYOUT = Layout(
    columns=(
        Column("user_id", "integer"),
        *(Column(name, "text", required=False) for name in _USER_TEXTS),
        *(Column(name, "number", required=False) for name in (*_USER_CODES, *_USER_COUNTS)),
    )
)
_VIDEO_LAYOUT = Layout(
    columns=(
        Column("video_id", "integer"),
        *(Column(name, "text", required=False) for name in (*_VIDEO_TEXTS, "tag")),
        *(Column(name, "number", required=False) for name in (*_VIDEO_CODES, *_VIDEO_SIZES)),
    )
)


def read(folder: Path, *, feedback: Sequence[str] = DEFAULT_FEEDBACK) -> Tables:
    """Canonical tables of the KuaiRand files in ``folder`` or its sub-folder ``data``.

    Rows that repeat another one exactly are dropped and counted in the log.

    A file ``exposures_before_<month>_<day>_*.csv`` (``user_id, pos, video_id, long_view, is_like``; pos -1 is a user's
    newest) stands in for a log before that date that could not be had. It has no times, so its rows get made-up ones
    that keep a user's order: one second apart, ending before the UTC day of the first logged impression. It is not
    read where a log that begins earlier is there as well, since its rows would then be counted twice.

    Args:
        folder: the unpacked download.
        feedback: binary columns of the logs, each with weight 1. Exposures have the default two only; others are null.

    Raises:
        DataError: a file or column is missing, or a value is wrong; names file, column and row.
    """
    users_file = _one(folder, "user_features_*.csv")
    videos_file = _one(folder, "video_features_basic_*.csv")
    users = check_unique(load([users_file], _USER_LAYOUT), "user_id", users_file)
    videos = check_unique(load([videos_file], _VIDEO_LAYOUT), "video_id", videos_file)
    interactions = _interactions(folder, feedback)
    items = videos.rename({"video_id": "item_id"}).with_columns(pl.col("tag").str.split(",").alias("tag"))
    return assemble(users, items, interactions, _spec(feedback))


def _interactions(folder: Path, feedback: Sequence[str]) -> pl.DataFrame:
    logs = find_files(folder, "log_standard_*.csv")
    if not logs:
        raise DataError(f"no such file in {folder} or its sub-folder data (plain or .gz)", file="log_standard_*.csv")
    flags = tuple(Column(name, "flag") for name in feedback)
    ids = (Column("user_id", "integer"), Column("video_id", "integer"))
    log = load(logs, Layout((*ids, Column("time_ms", "integer"), *flags)), distinct=True)
    rows = log.rename({"time_ms": "timestamp"})
    exposures = [path for path in find_files(folder, "exposures_before_*.csv") if _fills_a_gap(path, logs)]
    if exposures:
        known = tuple(flag for flag in flags if flag.name in DEFAULT_FEEDBACK)
        older = load(exposures, Layout((*ids, Column("pos", "integer"), *known)), distinct=True)
        timed = _with_times(older, first_logged_ms=int(log["time_ms"].to_numpy().min()))
        rows = pl.concat([rows, timed], how="diagonal")
    return rows.rename({"video_id": "item_id"})


def _with_times(exposures: pl.DataFrame, *, first_logged_ms: int) -> pl.DataFrame:
    end_ms = first_logged_ms - first_logged_ms % _DAY_MS
    newest = int(exposures["pos"].to_numpy().max())
    # Positions count up to -1; subtracting the newest keeps the times before the log whatever they count up to.
    return exposures.with_columns(timestamp=end_ms + (pl.col("pos") - newest - 1) * 1000).drop("pos")


def _fills_a_gap(exposures: Path, logs: Sequence[Path]) -> bool:
    return all(_first_day(log, "log_standard") >= _first_day(exposures, "exposures_before") for log in logs)


def _first_day(path: Path, prefix: str) -> tuple[int, int]:
    """Month and day after the prefix: the first of a log, the one that exposures end before."""
    match = re.match(prefix + r"_(\d+)_(\d+)_", path.name)
    if match is None:
        raise DataError(f"the name does not go on with a month and a day after {prefix!r}", file=path)
    return int(match[1]), int(match[2])


def _one(folder: Path, pattern: str) -> Path:
    files = find_files(folder, pattern)
    if not files:
        raise DataError(f"no such file in {folder} or its sub-folder data (plain or .gz)", file=pattern)
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(f"one file expected, found {names}; keep one version of KuaiRand in a folder", file=pattern)
    return files[0]


def _spec(feedback: Sequence[str]) -> FeatureSpec:
    categorical = ("user_id", *_USER_TEXTS, *_USER_CODES)
    return FeatureSpec(
        user_features=(
            *(Feature(name=name, kind="categorical") for name in categorical),
            *(Feature(name=name, kind="continuous") for name in _USER_COUNTS),
        ),
        item_features=(
            *(Feature(name=name, kind="categorical") for name in ("item_id", *_VIDEO_TEXTS, *_VIDEO_CODES)),
            *(Feature(name=name, kind="continuous") for name in _VIDEO_SIZES),
            Feature(name="tag", kind="multi_categorical", max_length=4),
        ),
        feedback=dict.fromkeys(feedback, 1.0),
    )
