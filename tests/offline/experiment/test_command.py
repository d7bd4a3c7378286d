"""``ranktower experiment`` as a process: killed in the middle, gone on with, and its page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from offline.experiment.command import main
from offline.experiment.cost import measure_cost
from offline.experiment.protocol import Protocol
from offline.experiment.results import read_json, unpack
from offline.experiment.workspace import make_workspace
from ranktower.errors import ConfigError


@pytest.fixture
def command(protocol_file: Path, tmp_path: Path) -> list[str]:
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "docs" / "results")]
    start = [sys.executable, "-m", "ranktower.cli", "experiment", "--dataset", "tiny"]
    return [*start, "--protocol", str(protocol_file), *places, "--jobs", "2"]


def _run(command: Sequence[str], *more: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run([*command, *more], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_killed_experiment_goes_on_where_it_was(
    command: list[str], tmp_path: Path, kill_when: Callable[[Sequence[str], Callable[[], bool]], None]
) -> None:
    work, results = tmp_path / "work" / "tiny", tmp_path / "docs" / "results" / "tiny"
    kill_when([*command, "--table", "1"], lambda: any(work.glob("runs/*/checkpoint.safetensors")))
    _run(command, "--tune", "--table", "1", "2", "--max-runs", "5")
    runs = {path: path.stat().st_mtime_ns for path in results.glob("*-seed*.json")}
    assert len(runs) == 5
    _run(command, "--table", "1", "2", "--extra", "learning_curve")
    after = sorted(path.name.rsplit("-", 1)[0] for path in results.glob("*-seed*.json"))
    assert after == [
        "no-random-seed0",
        "no-random-seed1",
        "ranktower-seed0",
        "ranktower-seed0",
        "ranktower-seed1",
        "ranktower-users0.5-seed0",
        "two_tower-seed0",
        "two_tower-seed1",
    ]
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    for path in runs:
        content = read_json(path)
        for pool in ("full_corpus", "impressions"):
            assert content["metrics"][pool]["num_users"] == 132
        ndcg = content["metrics"]["full_corpus"]["ndcg"]
        assert unpack(content["per_user"]["ndcg"]).mean() == pytest.approx(ndcg, abs=1e-4)
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert read_json(results / "tuned-ranktower.json")["trials"][0]["params"]["model.hidden"] == [32]
    text = (tmp_path / "docs" / "index.md").read_text(encoding="utf-8")
    assert "## tiny cascade" in text
    assert (tmp_path / "docs" / "tiny-learning-curve.svg").is_file()


def test_the_cost_of_every_model(protocol: Protocol, tmp_path: Path) -> None:
    workspace = make_workspace("tiny", protocol.dataset("tiny"), None, tmp_path)
    configs = [protocol.config(name, tuned={}, change={}, seed=0) for name in protocol.models]
    found = measure_cost(configs, workspace, protocol.cost, "command")
    assert [row["model"]["name"] for row in found["models"]] == ["two_tower", "ranktower"]
    assert all(0 < row["us_p10"] <= row["us"] <= row["us_p90"] for row in found["models"])
    assert found["models"][0]["ratio"] == 1
    assert found["num_runs"] == 4
    with pytest.raises(ConfigError, match="reference 'two_tower' is no model of Table 1"):
        measure_cost(configs[1:], workspace, protocol.cost, "command")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--table", "1"], "--dataset: needed"),
        (["--dataset", "tiny", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--dataset", "tiny", "--max-runs", "0"], "--max-runs: must be at least 1, got 0"),
        (["--dataset", "tiny", "--device", "tpu"], "--device: must be auto, cpu or cuda, got 'tpu'"),
        (["--dataset", "tiny", "--table", "9"], "table '9': the protocol has 1, 2, heads, learning_curve"),
    ],
)
def test_a_wrong_option_is_named(protocol_file: Path, tmp_path: Path, options: list[str], told: str) -> None:
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "docs" / "results")]
    with pytest.raises(ConfigError, match=told):
        main([*options, "--protocol", str(protocol_file), *places])
