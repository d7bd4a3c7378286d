"""A small data set of every feature kind, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.tables import Tables

SPEC = FeatureSpec(
    user_features=(
        Feature(name="country", kind="categorical"),
        Feature(name="age", kind="continuous", num_bins=4),
        Feature(name="history", kind="history", max_length=5),
        Feature(name="exposures", kind="history", of="impressions", max_length=40),
    ),
    item_features=(
        Feature(name="item_id", kind="categorical"),
        Feature(name="price", kind="continuous", num_bins=4),
        Feature(name="tags", kind="multi_categorical", max_length=2),
    ),
    feedback={"click": 1.0, "buy": 2.0},
)


def draw_tables(seed: int = 0, *, num_users: int = 20, num_items: int = 60, per_user: int = 30) -> Tables:
    """Every user has ``per_user`` distinct impressions; click and buy are random; ids are integers."""
    generator = np.random.default_rng(seed)
    users = pl.DataFrame(
        {
            "user_id": generator.permutation(num_users) + 1000,
            "country": generator.choice(np.array(["de", "fr", "it"]), num_users),
            "age": pl.Series([None if age < 15 else float(age) for age in generator.integers(10, 80, num_users)]),
        }
    )
    items = pl.DataFrame(
        {
            "item_id": generator.permutation(num_items) + 1,
            "price": generator.normal(size=num_items),
            "tags": [generator.integers(0, 9, length).tolist() for length in generator.integers(0, 4, num_items)],
        }
    )
    shown = np.concatenate([generator.permutation(num_items)[:per_user] + 1 for _ in range(num_users)])
    rows = len(shown)
    interactions = pl.DataFrame(
        {
            "user_id": np.repeat(users["user_id"].to_numpy(), per_user),
            "item_id": shown,
            "timestamp": generator.integers(0, 1000, rows),
            "stage": ["impression"] * rows,
            "click": (generator.random(rows) < 0.4).astype(np.int8),
            "buy": generator.random(rows) < 0.1,
            "teacher_scores": generator.random(rows),
        }
    )
    return Tables(users=users, items=items, interactions=interactions, spec=SPEC)


@pytest.fixture(name="draw_tables")
def draw_tables_fixture() -> Callable[..., Tables]:
    """``draw_tables`` as a fixture, because test files cannot import one another."""
    return draw_tables
