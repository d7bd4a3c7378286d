"""Files of tensors; checkpoints are tested by the loop that is killed and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.training.checkpoint import load_about, load_tensors, save_tensors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {"model.weight": torch.arange(6.0).reshape(2, 3).T, "predictions.test": torch.ones(2, dtype=torch.int64)}
    save_tensors(tmp_path / "some.safetensors", tensors, {"data_id": "0a", "seconds": 1.5})
    return tmp_path / "some.safetensors"


def test_tensors_come_back_all_or_by_the_beginning_of_their_names(path: Path) -> None:
    tensors, about = load_tensors(path)
    assert torch.equal(tensors["model.weight"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert torch.equal(tensors["predictions.test"], torch.tensor([1, 1]))
    assert set(load_tensors(path, prefix="model.")[0]) == {"model.weight"}
    assert about == load_tensors(path, prefix="nothing")[1] == load_about(path) == {"data_id": "0a", "seconds": 1.5}


def test_missing_and_damaged_files_are_named(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    for load in (load_tensors, load_about):
        with pytest.raises(ConfigError, match=r"some\.safetensors: damaged safetensors file"):
            load(path)
        with pytest.raises(ConfigError, match=r"other\.safetensors: there is no such file"):
            load(path.with_name("other.safetensors"))
