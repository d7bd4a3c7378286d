"""Tuning of one model on real data; the search itself is tested beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offline.experiment.plan import DataIdentity, tuning_key
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, read_json
from offline.experiment.tuning import TuningTask, tune_model
from offline.experiment.workspace import Workspace


def test_a_trial_that_diverges_is_told_and_its_folder_removed(
    content: dict[str, Any], simulated_folder: Path, tmp_path: Path
) -> None:
    two_tower = content["models"]["two_tower"]
    two_tower["base"]["learning_rate"] = 1e30
    two_tower["search"] = {"learning_rate": {"choices": [1e30, 0.005]}}
    protocol, results = Protocol.parse(content, where="tiny"), ResultFolder(tmp_path / "results")
    workspace = Workspace(tmp_path, simulated_folder, None)
    found = read_json(tune_model(TuningTask("two_tower", protocol, workspace, results, "cpu", "command")))
    assert found["key"] == tuning_key(protocol, "two_tower", DataIdentity(found["data_id"], None))
    assert [(trial["params"], trial["value"], trial["pruned"]) for trial in found["trials"]] == [
        ({"learning_rate": 1e30}, None, True)
    ]
    assert list(tmp_path.glob("tuning/*/trial-*")) == []
