"""What ``docs/api.md`` says to type at the registry; what it says to ask is in ``tests/service``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl


def test_the_command_for_deltas(
    films: Path, tmp_path: Path, page: Callable[..., Any], type_in: Callable[..., str]
) -> None:
    shutil.copytree(films / "registry", tmp_path / "registry")
    for side in ("user", "item"):
        new = pl.read_parquet(films / f"tables/{side}s.parquet").head(3).with_columns(pl.col(f"{side}_id") + 5_000_000)
        new.write_parquet(tmp_path / f"changed_{side}s.parquet")
    (command,) = page("api.md").commands(test="test_the_command_for_deltas")
    told = type_in(tmp_path, command.replace("--model ranktower", "--model films"))
    assert "3 items" in told
    assert "3 users" in told
