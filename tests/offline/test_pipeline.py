"""``ranktower pipeline``: its steps are tested as commands of their own; here it is what it makes of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline import pipeline
from offline.pipeline import imported_tables, is_canonical, run_step, simulated_tables
from ranktower import cli
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.data.tables import read_tables, write_tables
from ranktower.embedding_store.overlay import deltas_dir
from ranktower.embedding_store.overlay_writer import current_overlay
from ranktower.errors import RankTowerError
from ranktower.file_lock import file_lock
from ranktower.registry import Registry
from ranktower.release import MANIFEST, read_manifest
from ranktower.training.config import TrainConfig

OPTIONS = SimulatorOptions(num_users=60, num_items=200, requests_per_user=15.0, seed=5)


@pytest.fixture(scope="module")
def own_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "tables"
    write_tables(
        folder, simulate(SimulatorOptions(num_users=150, num_items=300, requests_per_user=15.0, seed=5)).tables
    )
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of a pipeline, which are run in this process."""
    names: list[str] = []

    def in_this_process(name: str, *command: str) -> None:
        names.append(name)
        assert cli.main(command) == 0

    monkeypatch.setattr(pipeline, "run_step", in_this_process)
    return names


def arguments(work: Path, config: Path) -> list[str]:
    return ["--work", str(work), "--registry", str(work / "registry"), "--model", "m", "--config", str(config)]


def runs(work: Path) -> set[str]:
    """Names of the training runs and of their exports."""
    return {folder.name for folder in (work / "own").iterdir() if folder.name.startswith(("run-", "export-"))}


def current(registry: Registry) -> str:
    pointer = registry.current("m")
    assert pointer is not None
    return pointer.release


def test_own_tables_to_a_promoted_release_by_a_command_a_step(
    own_tables: Path, small_config: TrainConfig, redis_server: Any, tmp_path: Path
) -> None:
    config, work = tmp_path / "config.yaml", tmp_path / "work"
    small_config.dump(config)
    command = [sys.executable, "-m", "ranktower.cli", "pipeline", *arguments(work, config), "--store", "redis"]
    env = {**os.environ, "RANKTOWER_DATA_DIR": str(own_tables), "RANKTOWER_STORE__REDIS_URL": redis_server.url}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Data: canonical tables in {own_tables}" in result.stdout
    steps = re.findall(r"^\[(\w+)\] ranktower ", result.stdout, re.MULTILINE)
    assert steps == ["prepare", "train", "evaluate", "export", "precompute", "publish", "promote"]
    release = current(Registry(work / "registry"))
    assert redis_server.command("exists", f"ranktower:m:{release}:manifest") == "1"
    assert release in redis_server.command("get", "ranktower:m:current")


def test_it_promotes_what_is_new_and_overrules_nobody(
    own_tables: Path, small_config: TrainConfig, tmp_path: Path, steps: list[str]
) -> None:
    config, registry = tmp_path / "config.yaml", Registry(tmp_path / "registry")
    small_config.dump(config)
    other = tmp_path / "other"
    write_tables(other, simulate(replace(OPTIONS, seed=6)).tables)

    def run(data: Path) -> str:
        steps.clear()
        assert pipeline.main([*arguments(tmp_path, config), "--data", str(data)]) == 0
        return current(registry)

    unreadable = registry.release_dir("m", "20240101T000000Z-00000000")
    unreadable.mkdir(parents=True)
    (unreadable / MANIFEST).write_text('{"format": 1}')
    first = run(own_tables)
    assert run(own_tables) == first
    assert steps[-1] == "publish", "it has been promoted"
    before = runs(tmp_path)
    second = run(other)
    assert second != first
    after = runs(tmp_path)
    assert len(before) == len(after) == 2
    assert not before & after, "the run before and its export would fill the volume"
    registry.rollback("m")
    assert run(other) == first, "who rolled back had a reason"
    registry.promote("m", second)
    assert run(own_tables) == first, "going back to earlier data is a change like any other"
    assert len(registry.releases("m")) == 2 + 1, "the unreadable one stays, and stops nobody"
    export, elsewhere = next((tmp_path / "own").glob("export-*")), tmp_path / "elsewhere"
    with pytest.raises(RankTowerError, match=rf"{elsewhere}/m: no release of training run \w+, staged or published"):
        pipeline._release_of(export, Registry(elsewhere), "m")


def test_a_release_has_what_came_since_before_it_is_promoted(
    own_tables: Path, small_config: TrainConfig, tmp_path: Path, steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, registry, new = tmp_path / "config.yaml", Registry(tmp_path / "registry"), tmp_path / "new.parquet"
    small_config.dump(config)
    items = pl.read_parquet(own_tables / "items.parquet")
    added = items.head(1).with_columns(pl.lit(items["item_id"].max() + 1).cast(items["item_id"].dtype).alias("item_id"))
    added.write_parquet(new)
    absent = tmp_path / "absent.parquet"
    options = ["--data", str(own_tables), "--delta-items", str(new), "--delta-users", str(absent)]
    assert pipeline.main([*arguments(tmp_path, config), *options]) == 0
    assert steps[-3:] == ["publish", "delta", "promote"]
    assert f"{absent} is not there: no users have come since" in capsys.readouterr().out
    folder = registry.release_dir("m", current(registry))
    overlay = current_overlay(deltas_dir(folder), read_manifest(folder))
    assert overlay is not None
    assert overlay.pointer.num_items == 1


def test_a_second_pipeline_waits_for_the_first(own_tables: Path, tmp_path: Path) -> None:
    """Also for one of another pod, which no process id tells of."""
    options = [*arguments(tmp_path, Path("/nowhere.yaml")), "--data", str(own_tables)]
    with file_lock(tmp_path / ".lock"):
        second = subprocess.Popen(
            [sys.executable, "-m", "ranktower.cli", "pipeline", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        assert second.stdout.readline() == f"Waiting for another pipeline in {tmp_path}\n"
        assert second.poll() is None
    out, err = second.communicate()
    assert out == f"Data: canonical tables in {own_tables}\n"
    assert "/nowhere.yaml: cannot be read" in err
    assert second.returncode == 2


def test_a_removal_that_was_killed_is_finished(tmp_path: Path) -> None:
    for name in ("run-00000001", "export-00000001", "run-00000002", ".removed/run-00000001", "prepared", "run-notes"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
    pipeline._remove_all_but("00000002", tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {"run-00000002", "prepared", "run-notes"}


def test_what_is_simulated_or_imported_is_made_once(
    movielens_raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    simulated = simulated_tables(tmp_path / "simulator" / "tables", 50, 80)
    assert read_tables(simulated).users.height == 50
    assert simulated_tables(simulated, 50, 80) == simulated
    raw = tmp_path / "raw"
    shutil.copytree(movielens_raw, raw)
    tables = imported_tables("movielens-1m", raw, tmp_path / "ml" / "tables")
    assert is_canonical(tables)
    assert not is_canonical(raw)
    capfd.readouterr()
    imported_tables("movielens-1m", raw, tables)
    assert "[import] reused" in capfd.readouterr().out
    with (raw / "movies.dat").open("a", encoding="latin-1") as file:
        file.write("9999::One more (2000)::Drama\n")
    imported_tables("movielens-1m", raw, tables)
    assert "9999" in read_tables(tables).items["item_id"].cast(str).to_list()


def test_a_failed_step_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankTowerError, match="step 'publish' ended with status 2"):
        run_step("publish", "publish", "--registry", "/nowhere", "--model", "no name")
    assert "ranktower publish: model: 'no name' is not a model name" in capfd.readouterr().err


def test_a_configuration_that_cannot_be_read_is_named(own_tables: Path, tmp_path: Path) -> None:
    with pytest.raises(RankTowerError, match=r"/nowhere\.yaml: cannot be read: No such file"):
        pipeline.main([*arguments(tmp_path, Path("/nowhere.yaml")), "--data", str(own_tables)])
