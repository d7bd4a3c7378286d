from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from offline.evaluate import _table, main
from ranktower.errors import ConfigError


def test_writes_every_model_in_both_pools_and_reuses_what_it_wrote(
    trained_run: Path, simulated_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    command = ["--run", str(run), "--data", str(simulated_folder), "--k", "20", "--quiet"]
    assert main(command) == 0
    first = capsys.readouterr().out
    results = json.loads((run / "metrics.json").read_text())["evaluation"]["results"]
    assert [(row["pool"], row["model"]) for row in results] == [
        (pool, model) for pool in ("full_corpus", "impressions") for model in ("popularity", "two-tower", "ranktower")
    ]
    assert all(row["k"] == 20 and row["split"] == "test" for row in results)
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "reused from" in again
    assert again.split("evaluate:")[0] == first.split("evaluate:")[0]
    assert main([*command, "--split", "validation"]) == 0
    assert "reused" not in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--k", "0"], ["--max-users", "-3"]])
def test_a_wrong_option_is_named(option: list[str], trained_run: Path, simulated_folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"must be at least 1, got .*{option[1]}"):
        main(["--run", str(trained_run), "--data", str(simulated_folder), *option])


def test_without_a_positive_there_is_nothing_to_measure() -> None:
    row = {
        "pool": "full_corpus",
        "split": "test",
        "k": 5,
        "num_users": 0,
        "model": "popularity",
        "recall": 0.0,
        "ndcg": 0.0,
    }
    told = _table([row, row | {"pool": "impressions"}])
    assert told.count("no user has a positive, so there is nothing to measure") == 2
    assert "0.0000" not in told
