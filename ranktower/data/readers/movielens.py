"""MovieLens-1M (Harper and Konstan, ACM TiiS 2015, https://grouplens.org/datasets/movielens/1m/): film ratings.

A rated film counts as an impression, and a rating of 4 or 5 as positive feedback (``like``).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.assembly import assemble, check_unique
from ranktower.data.readers.delimited import Column, Layout, load, require_file
from ranktower.data.tables import Tables

LIKED_FROM = 4
"""Stars from which a rating is positive feedback."""


def _layout(*columns: Column) -> Layout:
    return Layout(columns, header=False, separator="::", encoding="latin-1", quoted=False)


_RATINGS = _layout(
    Column("user_id", "integer"),
    Column("item_id", "integer"),
    Column("rating", "text", choices=("1", "2", "3", "4", "5")),
    Column("timestamp", "integer"),
)
_USERS = _layout(
    Column("user_id", "integer"),
    Column("gender", "text"),
    Column("age", "integer"),
    Column("occupation", "integer"),
    Column("zip_code", "text"),
)
_MOVIES = _layout(Column("item_id", "integer"), Column("title", "text"), Column("genres", "text"))


def read(folder: Path) -> Tables:
    """Canonical tables of ``ratings.dat``, ``users.dat`` and ``movies.dat`` (fields parted by ``::``, Latin-1).

    The year of release is taken from the end of the title, the region from the first digit of the zip code. Exact
    duplicates among the ratings are dropped and counted in the log.

    Raises:
        DataError: a file is missing or a value is wrong; names file, column and row.
    """
    users_file = require_file(folder, "users.dat")
    movies_file = require_file(folder, "movies.dat")
    ratings_file = require_file(folder, "ratings.dat")
    users = check_unique(load([users_file], _USERS), "user_id", users_file)
    movies = check_unique(load([movies_file], _MOVIES), "item_id", movies_file)
    ratings = load([ratings_file], _RATINGS, distinct=True)
    interactions = ratings.select(
        "user_id",
        "item_id",
        timestamp=pl.col("timestamp") * 1000,
        like=(pl.col("rating").cast(pl.String).cast(pl.Int8) >= LIKED_FROM).cast(pl.Int8),
    )
    items = movies.select(
        "item_id",
        release_year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
        genres=pl.col("genres").str.split("|"),
    )
    users = users.select("user_id", "gender", "age", "occupation", region=pl.col("zip_code").str.slice(0, 1))
    return assemble(users, items, interactions, _SPEC)


_SPEC = FeatureSpec(
    # Age is one of seven groups, not a number of years.
    user_features=tuple(
        Feature(name=name, kind="categorical") for name in ("user_id", "gender", "age", "occupation", "region")
    ),
    item_features=(
        Feature(name="item_id", kind="categorical"),
        Feature(name="release_year", kind="continuous"),
        Feature(name="genres", kind="multi_categorical", max_length=6),
    ),
    feedback={"like": 1.0},
)
