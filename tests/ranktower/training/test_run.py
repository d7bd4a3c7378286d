"""Reading a run back, with the data it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranktower.data.dataset import PreparedDataset
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.errors import ConfigError
from ranktower.training.run import load_run_and_data


def test_a_run_and_its_data_belong_together(
    trained_run: Path, simulated_folder: Path, simulated: PreparedDataset, tmp_path: Path
) -> None:
    run, dataset = load_run_and_data(trained_run, simulated_folder)
    assert run.data_id == dataset.data_id == simulated.data_id
    small = simulate(SimulatorOptions(num_users=40, num_items=60, requests_per_user=8.0, seed=6))
    other = prepare(small.tables, PrepareOptions(min_impressions=5, min_positives=1))
    other.save(tmp_path / "other")
    wanted = rf"other: data_id {other.data_id[:12]}, the run was trained on {simulated.data_id[:12]}$"
    with pytest.raises(ConfigError, match=wanted):
        load_run_and_data(trained_run, tmp_path / "other")
    with pytest.raises(ConfigError, match="no finished training run"):
        load_run_and_data(tmp_path, simulated_folder)
