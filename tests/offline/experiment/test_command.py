"""``ranktower experiment`` as a process: killed in the middle, gone on with, and its page."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from offline.experiment.command import Experiment, main
from offline.experiment.cost import is_measured, measure_cost
from offline.experiment.plan import DataIdentity, tuning_key
from offline.experiment.protocol import CostOptions, Protocol
from offline.experiment.results import ResultFolder, read_json, unpack, write_json
from offline.experiment.workspace import Workspace
from ranktower.errors import ConfigError, RankTowerError


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


@pytest.mark.timeout(900)
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
        for pool, k in (("full_corpus", 20), ("impressions", 5)):
            assert (content["metrics"][pool]["num_users"], content["metrics"][pool]["k"]) == (132, k)
        steps = content["training"]
        assert 0 < steps["best_step"] <= steps["steps"] == 2 * steps["steps_per_epoch"]
        ndcg = content["metrics"]["full_corpus"]["ndcg"]
        assert unpack(content["per_user"]["ndcg"]).mean() == pytest.approx(ndcg, abs=1e-4)
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert read_json(results / "tuned-ranktower.json")["trials"][0]["params"]["model.hidden"] == [32]
    text = (tmp_path / "docs" / "index.md").read_text(encoding="utf-8")
    assert "## tiny cascade" in text
    assert (tmp_path / "docs" / "tiny-learning-curve.svg").is_file()


@pytest.mark.timeout(900)
def test_the_cost_of_every_model_is_measured_once(content: dict[str, Any], tmp_path: Path) -> None:
    del content["extras"]["heads"]
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "docs" / "results")]
    arguments = ["--dataset", "tiny", "--extra", "cost", "--protocol", str(tmp_path / "protocol.yaml"), *places]
    path = tmp_path / "docs" / "results" / "tiny" / "cost.json"
    main(arguments)
    written = path.stat().st_mtime_ns
    main(arguments)
    assert path.stat().st_mtime_ns == written
    found = read_json(path)
    assert [row["model"]["name"] for row in found["models"]] == ["two_tower", "ranktower"]
    assert all(0 < row["us_p10"] <= row["us"] <= row["us_p90"] for row in found["models"])
    assert found["models"][0]["ratio"] == 1
    assert "the median of 4 runs" in (tmp_path / "docs" / "index.md").read_text(encoding="utf-8")


def test_other_models_options_or_data_have_another_cost(protocol: Protocol) -> None:
    configs = [protocol.config(name, tuned={}, change={}, seed=0) for name in protocol.models]
    models = [{"model": config.model.model_dump(mode="json"), "us": 1.0} for config in configs]
    found = {"data_id": "d", "options": protocol.cost.model_dump(mode="json"), "models": models}
    assert is_measured(found, configs, protocol.cost, data_id="d")
    assert not is_measured(found, configs, protocol.cost, data_id="e")
    assert not is_measured(found, configs[:1], protocol.cost, data_id="d")
    assert not is_measured(found, configs, CostOptions(), data_id="d")


def test_a_cost_without_its_reference_is_refused(protocol: Protocol, tmp_path: Path) -> None:
    configs = [protocol.config("ranktower", tuned={}, change={}, seed=0)]
    with pytest.raises(ConfigError, match="reference 'two_tower' is no model of Table 1"):
        measure_cost(configs, Workspace(tmp_path, tmp_path, None), protocol.cost, "command")


def _experiment(protocol: Protocol, folder: ResultFolder, **options: Any) -> Experiment:
    """Without anything to work on, for what goes wrong before."""
    chosen = {"tune": False, "table": ["1"], "extra": [], "seeds": 1, "max_runs": None, "jobs": 1, "device": "cpu"}
    workspace = Workspace(folder.path / "work", folder.path / "nothing", None)
    return Experiment(protocol, folder, workspace, Namespace(**chosen | options), "command")


def test_a_tuned_model_is_not_compared_with_one_that_is_not(
    protocol: Protocol, folder: ResultFolder, identity: DataIdentity
) -> None:
    content = {"key": tuning_key(protocol, "ranktower", identity), "best": {}, "trials": []}
    write_json(folder.tuning("ranktower"), content)
    with pytest.raises(RankTowerError, match="model two_tower is not tuned, while others are; run --tune"):
        _experiment(protocol, folder).work()


def test_what_fails_keeps_nothing_else_from_being_done(
    protocol: Protocol, folder: ResultFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs have no data; the cost is measured for all that, and both are named."""
    monkeypatch.setattr("offline.experiment.command.measure_cost", lambda *_: {"measured": True})
    with pytest.raises(RankTowerError, match=r"^(?=.*two_tower: .*nothing)(?=.*ranktower: .*nothing)"):
        _experiment(protocol, folder, extra=["cost"]).work()
    assert read_json(folder.cost) == {"measured": True}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--table", "1"], "--dataset: needed"),
        (["--dataset", "tiny", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--dataset", "tiny", "--max-runs", "0"], "--max-runs: must be at least 1, got 0"),
        (["--dataset", "tiny", "--device", "tpu"], "--device: must be auto, cpu or cuda, got 'tpu'"),
        (["--dataset", "tiny", "--table", "9"], "table '9': the protocol has 1, 2, heads, learning_curve"),
        (["--dataset", "tiny", "--extra", "cost", "x"], "table 'x': the protocol has 1, 2, heads, learning_curve"),
    ],
)
def test_a_wrong_option_is_named(protocol_file: Path, tmp_path: Path, options: list[str], told: str) -> None:
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "docs" / "results")]
    with pytest.raises(ConfigError, match=told):
        main([*options, "--protocol", str(protocol_file), *places])
    assert not (tmp_path / "work").exists()
