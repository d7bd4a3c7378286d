"""What runs share: made once, the same for all, and never written through one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from offline.experiment.protocol import DatasetEntry, Protocol
from offline.experiment.workspace import (
    Workspace,
    keep_users,
    link_candidates,
    make_workspace,
    share_of_users,
)
from ranktower.data.dataset import TRAIN, UNUSED, PreparedDataset
from ranktower.errors import ConfigError, DataError
from ranktower.training.run import RunFolder


def _trained_users(dataset: PreparedDataset) -> set[int]:
    interactions = dataset.interactions
    return set(interactions.user_row[interactions.split == TRAIN].tolist())


def test_a_subsample_leaves_the_other_users_unused(simulated: PreparedDataset) -> None:
    small, large = keep_users(simulated, 20), keep_users(simulated, 50)
    assert len(_trained_users(small)) == 20
    assert _trained_users(small) < _trained_users(large) < _trained_users(simulated)
    kept = np.isin(simulated.interactions.user_row, list(_trained_users(small)))
    assert np.all(small.interactions.split[~kept] == UNUSED)
    assert np.array_equal(small.interactions.split[kept], simulated.interactions.split[kept])
    assert len({of.data_id for of in (small, large, simulated)}) == 3
    assert len(_trained_users(share_of_users(simulated, 0.5))) == round(0.5 * len(_trained_users(simulated)))


def test_all_users_are_the_data_set_itself(simulated: PreparedDataset) -> None:
    assert share_of_users(simulated, 1.0) is simulated


def test_candidates_are_retrieved_once_for_all_seeds(
    simulated: PreparedDataset, protocol: Protocol, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path, tmp_path / "prepared", None)
    runs = [RunFolder(tmp_path / "runs" / str(seed)) for seed in range(2)]
    for seed, run in enumerate(runs):
        config = protocol.config("ranktower", tuned={}, change={}, seed=seed)
        link_candidates(workspace, simulated, config, run, torch.device("cpu"))
        link_candidates(workspace, simulated, config, run, torch.device("cpu"))
    (shared,) = tmp_path.glob("retrieval-*")
    for name in ("retrieval.safetensors", "candidates.npy"):
        assert {(run.path / name).stat().st_ino for run in runs} == {(shared / name).stat().st_ino}


def test_a_simulated_workspace_is_made_once(protocol: Protocol, tmp_path: Path) -> None:
    entry = protocol.dataset("tiny")
    workspace = make_workspace("tiny", entry, None, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert make_workspace("tiny", entry, None, tmp_path) == workspace
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert workspace.identity(workspace.load()).teacher_key is None


def test_a_data_set_without_a_source_says_what_is_missing(tmp_path: Path, movielens_raw: Path) -> None:
    with pytest.raises(ConfigError, match="--dataset mine: needs --data"):
        make_workspace("mine", DatasetEntry(), None, tmp_path)
    with pytest.raises(ConfigError, match="holds the data set 'movielens-1m', --dataset says 'mine'"):
        make_workspace("mine", DatasetEntry(), movielens_raw, tmp_path)
    with pytest.raises(DataError):
        make_workspace("mine", DatasetEntry(), tmp_path / "nothing", tmp_path)
