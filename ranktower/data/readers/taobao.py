"""Taobao UserBehavior (Alibaba, Tianchi data set 649): page views, carts, favourites and purchases.

The file logs no item that was shown and left alone, so every behaviour stands for an impression: a page view (pv) is
one without feedback; cart, fav and buy are the feedback. The feedback of one (user, item) pair, spread over rows, is
merged when the tables are prepared.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.assembly import assemble
from ranktower.data.readers.delimited import Column, Layout, load, require_file
from ranktower.data.tables import Tables

FEEDBACK = ("cart", "fav", "buy")

_LAYOUT = Layout(
    header=False,
    columns=(
        Column("user_id", "integer"),
        Column("item_id", "integer"),
        Column("category_id", "integer"),
        Column("behavior", "text", choices=("pv", *FEEDBACK)),
        Column("timestamp", "integer"),
    ),
)


def read(folder: Path) -> Tables:
    """Canonical tables of ``UserBehavior.csv`` (no header: user, item, category, behaviour, Unix seconds).

    Exact duplicates are dropped and counted in the log. A few rows of the official file lie outside its nine days;
    they are kept with the time they have. An item logged under several categories gets the smallest one. The official
    file of 100 million rows needs about 13 GB of memory (2.6 GB were measured for a fifth of it).

    Raises:
        DataError: the file is missing or a value is wrong; names file, column and row.
    """
    rows = load([require_file(folder, "UserBehavior.csv")], _LAYOUT, distinct=True)
    items = rows.group_by("item_id").agg(pl.col("category_id").min()).sort("item_id")
    interactions = rows.select(
        "user_id",
        "item_id",
        timestamp=pl.col("timestamp") * 1000,
        **{name: (pl.col("behavior") == name).cast(pl.Int8) for name in FEEDBACK},
    )
    users = rows.select(pl.col("user_id").unique().sort())
    return assemble(users, items, interactions, _SPEC)


_SPEC = FeatureSpec(
    user_features=(Feature(name="user_id", kind="categorical"),),
    item_features=(Feature(name="item_id", kind="categorical"), Feature(name="category_id", kind="categorical")),
    feedback=dict.fromkeys(FEEDBACK, 1.0),
)
