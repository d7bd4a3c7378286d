"""Alimama display advertising (Alibaba, Tianchi data set 56, "Ali_Display_Ad_Click"): ads shown on Taobao, and clicks.

``behavior_log.csv`` is not read: its rows name categories and brands, not ads. ``pid`` of the impressions is the place
on the page, which nobody knows before the ad is chosen, so it is no feature.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.assembly import assemble, check_unique
from ranktower.data.readers.delimited import Column, Layout, load, require_file
from ranktower.data.tables import Tables

_PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
_AD_CODES = ("cate_id", "campaign_id", "customer", "brand")

_IMPRESSIONS = Layout(
    columns=(
        Column("user", "integer"),
        Column("adgroup_id", "integer"),
        Column("time_stamp", "integer"),
        Column("clk", "flag"),
    )
)
_ADS = Layout(
    columns=(
        Column("adgroup_id", "integer"),
        *(Column(name, "integer", required=False) for name in _AD_CODES),
        Column("price", "number", required=False),
    ),
    null_values=("NULL",),
)
_USERS = Layout(
    columns=(Column("userid", "integer"), *(Column(name, "integer", required=False) for name in _PROFILE)),
    null_values=("NULL",),
)


def read(folder: Path) -> Tables:
    """Canonical tables of ``raw_sample.csv``, ``ad_feature.csv`` and ``user_profile.csv``.

    Exact duplicates among the impressions are dropped and counted in the log. Users without a profile are kept, with
    all features missing.

    Raises:
        DataError: a file or column is missing, or a value is wrong; names file, column and row.
    """
    ads_file = require_file(folder, "ad_feature.csv")
    users_file = require_file(folder, "user_profile.csv")
    impressions_file = require_file(folder, "raw_sample.csv")
    ads = check_unique(load([ads_file], _ADS), "adgroup_id", ads_file)
    users = check_unique(load([users_file], _USERS), "userid", users_file)
    shown = load([impressions_file], _IMPRESSIONS, distinct=True)
    interactions = shown.select(
        user_id="user", item_id="adgroup_id", timestamp=pl.col("time_stamp") * 1000, click="clk"
    )
    return assemble(users.rename({"userid": "user_id"}), ads.rename({"adgroup_id": "item_id"}), interactions, _SPEC)


_SPEC = FeatureSpec(
    user_features=tuple(Feature(name=name, kind="categorical") for name in ("user_id", *_PROFILE)),
    item_features=(
        *(Feature(name=name, kind="categorical") for name in ("item_id", *_AD_CODES)),
        Feature(name="price", kind="continuous"),
    ),
    feedback={"click": 1.0},
)
