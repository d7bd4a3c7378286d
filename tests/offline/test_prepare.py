"""``ranktower prepare``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from offline.prepare import main
from ranktower.cli import main as ranktower
from ranktower.data.dataset import PreparedDataset
from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.tables import Tables, read_tables, write_tables
from ranktower.errors import DataError

FLAGS = ["--min-impressions", "10", "--min-positives", "1"]


def draw(seed: int) -> Tables:
    """Twelve users with twenty impressions each, but for the last one, who has five."""
    generator = np.random.default_rng(seed)
    counts = [20] * 11 + [5]
    items = np.concatenate([generator.permutation(40)[:count] for count in counts])
    interactions = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(12), counts),
            "item_id": items,
            "timestamp": np.arange(len(items)),
            "stage": ["impression"] * len(items),
            "click": (np.arange(len(items)) % 3 == 0).astype(np.int8),
        }
    )
    spec = FeatureSpec(item_features=(Feature(name="item_id", kind="categorical"),), feedback={"click": 1.0})
    users, corpus = pl.DataFrame({"user_id": range(12)}), pl.DataFrame({"item_id": range(40)})
    return Tables(users=users, items=corpus, interactions=interactions, spec=spec)


@pytest.fixture(name="tables")
def tables_fixture(tmp_path: Path) -> Path:
    write_tables(tmp_path / "tables", draw(0))
    return tmp_path / "tables"


def run(tables: Path, out: Path, *flags: str) -> None:
    assert main(["--tables", str(tables), "--out", str(out), *(flags or FLAGS)]) == 0


def test_it_writes_what_the_library_prepares(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepared"
    run(tables, out, *FLAGS, "--seed", "4")
    dataset = PreparedDataset.load(out)
    expected = prepare(read_tables(tables), PrepareOptions(min_impressions=10, min_positives=1, seed=4))
    assert dataset.data_id == expected.data_id
    assert dataset.info["options"] == expected.info["options"]
    assert re.fullmatch(
        rf"{re.escape(str(out))}: prepared: 12 users \(11 active\), 40 items, 225 interactions; "
        r"impressions: 154 train, 22 validation, 44 test, 5 of inactive users; \d+\.\d s\n",
        capsys.readouterr().out,
    )


def test_the_same_again_is_reused(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "prepared"
    run(tables, out)
    before = (out / "info.json").stat().st_mtime_ns
    capsys.readouterr()
    run(tables, out)
    assert ": reused, same tables and options: 12 users (11 active)" in capsys.readouterr().out
    assert (out / "info.json").stat().st_mtime_ns == before


def test_other_options_other_tables_or_damage_prepare_anew(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prepared"
    run(tables, out)
    ids = [PreparedDataset.load(out).data_id]
    run(tables, out, *FLAGS, "--seed", "1")
    ids.append(PreparedDataset.load(out).data_id)
    run(tables, out, *FLAGS, "--train-fraction", "0.5")
    ids.append(PreparedDataset.load(out).data_id)
    write_tables(tables, draw(1))
    run(tables, out)
    ids.append(PreparedDataset.load(out).data_id)
    assert len(set(ids)) == 4
    (out / "interactions.split.npy").write_bytes(b"")
    run(tables, out)
    assert PreparedDataset.load(out).data_id == ids[3]
    assert capsys.readouterr().out.count(": prepared: ") == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "tables"]


@pytest.mark.parametrize("name", ["users.parquet", "items.parquet", "interactions.parquet", "features.yaml"])
def test_a_missing_table(tables: Path, tmp_path: Path, name: str) -> None:
    (tables / name).unlink()
    with pytest.raises(DataError) as raised:
        run(tables, tmp_path / "prepared")
    assert str(raised.value) == f"{tables / name}: no such file"
    assert not (tmp_path / "prepared").exists()


def test_wrong_tables_leave_nothing_behind(tables: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(tables / "interactions.parquet")
    frame.with_columns(click=pl.lit(7)).write_parquet(tables / "interactions.parquet")
    with pytest.raises(DataError) as raised:
        run(tables, tmp_path / "prepared")
    expected = f"{tables / 'interactions.parquet'}, column 'click', row 0: feedback is 7, not 0 or 1"
    assert str(raised.value) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables"]


def test_it_does_not_overwrite_the_tables(tables: Path) -> None:
    with pytest.raises(DataError) as raised:
        run(tables, tables)
    assert str(raised.value).startswith(f"{tables}: will not replace this folder: it also holds ")
    assert read_tables(tables).users.height == 12


def test_the_command_line_reports_without_a_stack_trace(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", "--tables", str(tables), "--out", str(tmp_path / "prepared")]
    assert ranktower([*arguments, "--seed", "-1"]) == 2
    assert "seed: must not be negative, got -1" in capsys.readouterr().err
    assert ranktower(arguments) == 2
    assert "no user has at least 30 impressions and 5 positives" in capsys.readouterr().err
    assert ranktower([*arguments, *FLAGS]) == 0
    assert ": prepared: " in capsys.readouterr().out
