"""The event log of ``docs/your-data.md`` becomes a data set, and the error shown there is the one that comes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """Forty users' events, in the columns that the page's example names, and the other files of the tables."""
    rng = np.random.default_rng(0)
    num_users, num_items, per_user = 40, 200, 60
    users = np.repeat(np.arange(num_users), per_user)
    items = np.concatenate([rng.permutation(num_items)[:per_user] for _ in range(num_users)])
    shown = rng.random(len(users)) < 0.8
    clicked = shown & (rng.random(len(users)) < 0.5)
    start = datetime(2026, 1, 1)
    pl.DataFrame(
        {
            "user": users,
            "item": items,
            "time": [start + timedelta(seconds=second) for second in range(len(users))],
            "shown": shown,
            "ranked": shown | (rng.random(len(users)) < 0.5),
            "clicked": clicked,
            "bought": clicked & (rng.random(len(users)) < 0.2),
            "ranker_score": rng.random(len(users)),
        }
    ).write_parquet(tmp_path / "events.parquet")
    tables = tmp_path / "tables"
    tables.mkdir()
    pl.DataFrame(
        {"user_id": range(num_users), "country": ["de", "fr"] * (num_users // 2), "age": rng.uniform(18, 80, num_users)}
    ).write_parquet(tables / "users.parquet")
    pl.DataFrame(
        {"item_id": range(num_items), "price": rng.uniform(1, 9, num_items), "tags": [["a", "b"]] * num_items}
    ).write_parquet(tables / "items.parquet")
    return tmp_path


def test_an_event_log_becomes_a_data_set(
    warehouse: Path, page: Callable[..., Any], type_in: Callable[..., str]
) -> None:
    ours = page("your-data.md")
    (specification,), (python,) = ours.blocks("yaml"), ours.blocks("python")
    (warehouse / "tables/features.yaml").write_text(specification)
    subprocess.run([sys.executable, "-c", python], cwd=warehouse, check=True)
    (prepare,) = ours.commands(test="test_an_event_log_becomes_a_data_set")
    assert "40 users (40 active)" in type_in(warehouse, prepare)

    # Row 3 with a stage that there is not: the page shows the error.
    path = warehouse / "tables/interactions.parquet"
    stages = pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("shown")).otherwise("stage")
    pl.read_parquet(path).with_columns(stages.alias("stage")).write_parquet(path)
    command = [sys.executable, "-m", "ranktower.cli", *prepare.split()[1:]]
    refused = subprocess.run(command, cwd=warehouse, capture_output=True, text=True, check=False)
    (shown,) = ours.blocks("text")
    assert refused.returncode != 0
    assert refused.stderr.strip() == shown.strip()
