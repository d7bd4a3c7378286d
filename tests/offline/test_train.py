"""``ranktower train``; what it does to a model is tested in ``ranktower/training/test_loop.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offline.train import main, run_training
from ranktower.data.dataset import UNUSED, VALIDATION, PreparedDataset, with_content_id
from ranktower.errors import ConfigError
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder, load_run


def arguments(data: Path, folder: Path, config: TrainConfig) -> list[str]:
    config.dump(folder / "config.yaml")
    return ["--data", str(data), "--out", str(folder / "run"), "--config", str(folder / "config.yaml"), "--quiet"]


def test_it_says_how_the_run_ended(
    simulated_folder: Path, small_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config.model_copy(update={"max_epochs": 1})
    assert main(arguments(simulated_folder, tmp_path, config)) == 0
    assert ", best validation NDCG@20 0." in capsys.readouterr().out.splitlines()[-1]


def test_it_says_that_nobody_could_be_validated(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = simulated.interactions
    unused = replace(rows, split=np.where(rows.split == VALIDATION, UNUSED, rows.split).astype(np.uint8))
    with_content_id(replace(simulated, interactions=unused)).save(tmp_path / "data")
    config = small_config.model_copy(update={"max_epochs": 1})
    assert main(arguments(tmp_path / "data", tmp_path, config)) == 0
    told = capsys.readouterr().out
    assert "no user has a positive in the validation split: no early stopping, the last model is kept" in told
    assert "NDCG" not in told


def test_a_side_without_a_feature_is_refused(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    dataset = replace(simulated, spec=simulated.spec.model_copy(update={"item_features": ()}))
    with pytest.raises(ConfigError, match=r"names no item_features; the least is \[\{name: item_id, kind: categorical"):
        run_training(dataset, small_config, RunFolder(tmp_path), device=torch.device("cpu"), show_bar=False)
    assert list(tmp_path.iterdir()) == []


def test_a_width_of_what_is_no_feature_is_refused_before_the_folder_is_taken(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    config = small_config.model_copy(update={"embedding_widths": {"itemid": 24}})
    with pytest.raises(ConfigError, match=r"embedding_widths: no feature 'itemid' \(= 24\); known: .*item_id"):
        run_training(simulated, config, RunFolder(tmp_path), device=torch.device("cpu"), show_bar=False)
    assert list(tmp_path.iterdir()) == []


def test_given_widths_are_those_of_the_run_that_is_read_again(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    config = small_config.model_copy(
        update={"embedding_widths": {"item_id": 24}, "warm_start": True, "max_epochs": 1, "learning_rate": 1e-9}
    )
    run_training(simulated, config, RunFolder(tmp_path), device=torch.device("cpu"), show_bar=False)
    run = load_run(tmp_path)
    place = simulated.encoder.item.single_fields.index("item_id")
    trained, retrieval = (
        model.field_embeddings()[1].single[place].weight for model in (run.ranktower, run.retrieval_model())
    )
    assert trained.shape[1] == 24
    torch.testing.assert_close(trained, retrieval, rtol=0, atol=1e-6)


def test_an_unknown_device_is_named(simulated_folder: Path, small_config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device: must be auto, cpu or cuda, got 'tpu'"):
        main([*arguments(simulated_folder, tmp_path, small_config), "--device", "tpu"])
