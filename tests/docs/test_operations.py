"""``docs/operations.md``, typed from top to bottom: each command does to the registry what the page says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from ranktower.pointer import Variation
from ranktower.registry import Registry

NAMED = "20260101T000000Z-0a1b2c3d"


def test_every_command_of_the_page(
    films: Path, tmp_path: Path, page: Callable[..., Any], type_in: Callable[..., str]
) -> None:
    for name in ("run", "export", "prepared", "registry"):
        shutil.copytree(films / name, tmp_path / name)
    tables = films / "tables"
    pl.read_parquet(tables / "items.parquet").head(3).with_columns(pl.lit(9.5).alias("price")).write_parquet(
        tmp_path / "changed_items.parquet"
    )
    pl.read_parquet(tables / "users.parquet").head(2).with_columns(pl.lit(99.0).alias("age")).write_parquet(
        tmp_path / "changed_users.parquet"
    )
    registry = Registry(tmp_path / "registry")
    (first,) = registry.releases("films")
    commands = page("operations.md").commands(test="test_every_command_of_the_page")

    def run(command: str, *, like: str) -> str:
        """Run the page's next command, which is one of this kind."""
        assert commands.pop(0) == command
        assert like in command
        # Other bytes in the rows: another release of the same model.
        return type_in(tmp_path, command.replace(" --run run", " --dtype float32 --run run"))

    run(commands[0], like="precompute --run")
    run(commands[0], like="publish")
    (second,) = set(registry.releases("films")) - {first}
    commands = [command.replace(NAMED, second) for command in commands]
    run(commands[0], like="shadow")
    assert registry.current("films").shadow == Variation(release=second, share=0.1, model=None)
    for share in (0.05, 0.25):
        run(commands[0], like="canary")
        assert registry.current("films").canary == Variation(release=second, share=share, model=None)
    run(commands[0], like="--off")
    assert registry.current("films").canary is None
    run(commands[0], like="promote")
    assert registry.current("films").release == second
    run(commands[0], like="rollback")
    assert registry.current("films").release == first
    assert "3 items" in run(commands[0], like="--delta")
    assert "would remove 0 bytes" in run(commands[0], like="--dry-run")  # there are but two
    run(commands[0], like="gc")
    assert commands == []
    assert set(registry.releases("films")) == {first, second}
