from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline import demo, pipeline
from ranktower.data.tables import read_tables
from ranktower.errors import RankTowerError
from ranktower.training.config import TrainConfig


def run_demo(work: Path, raw: Path, config: Path) -> str:
    command = [sys.executable, "-m", "ranktower.cli", "demo", "--work", str(work), "--config", str(config)]
    env = {**os.environ, "RANKTOWER_DATA_DIR": str(raw), "DEMO_ONCE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def scored(told: str) -> dict[str, Any]:
    """The answer that the demo printed below its curl line."""
    lines = told.splitlines()
    curl = next(number for number, line in enumerate(lines) if line.startswith("curl "))
    answer: dict[str, Any] = json.loads(lines[curl + 1])
    return answer


def test_runs_to_a_scored_request_and_a_second_one_reuses_it(
    movielens_raw: Path, small_config: TrainConfig, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    small_config.dump(config)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 8000))
        taken.listen()
        told = run_demo(tmp_path / "work", movielens_raw, config)
    assert f"Data: movielens-1m from {movielens_raw} (RANKTOWER_DATA_DIR names it)" in told
    for step in ("import", "prepare", "train", "evaluate", "export", "precompute", "publish", "promote"):
        assert f"\n[{step}] " in told
    assert all(f"\n  {model} " in told for model in ("popularity", "two-tower", "ranktower"))
    assert "Port 8000 is taken; serving on " in told
    answer = scored(told)
    assert answer["user"] == "PRESENT"
    assert len(answer["scores"]) == 5
    assert all(isinstance(score, float) for score in answer["scores"])

    again = run_demo(tmp_path / "work", movielens_raw, config)
    assert "reused" in again
    assert scored(again)["scores"] == answer["scores"]
    assert scored(again)["release"] == answer["release"]


def test_without_data_or_network_it_simulates_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("RANKTOWER_DATA_DIR", raising=False)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(demo, "simulated_tables", lambda tables: pipeline.simulated_tables(tables, 50, 80))
    tables = demo._make_tables(Path("work"))
    assert read_tables(tables).users.height == 50
    assert "Data: the cascade simulator (RANKTOWER_DATA_DIR is not set" in capfd.readouterr().out


def test_a_named_folder_without_a_data_set_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKTOWER_DATA_DIR", str(tmp_path))
    with pytest.raises(RankTowerError, match=str(tmp_path)):
        demo._make_tables(tmp_path / "work")


def test_a_service_that_never_becomes_ready_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is promoted in this registry: the service stays up, and stays unready."""
    monkeypatch.setattr(demo, "READY_WITHIN_S", 3.0)
    with (
        pytest.raises(RankTowerError, match=r"did not become ready within 3 s.*service\.log"),
        demo._serving(tmp_path / "registry"),
    ):
        pass
