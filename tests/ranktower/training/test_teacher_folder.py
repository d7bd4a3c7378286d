from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offline.train import run_training
from ranktower.data.dataset import PreparedDataset, with_content_id
from ranktower.errors import ConfigError
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder, load_run, read_metrics
from ranktower.training.teacher_folder import TeacherFolder, with_teacher

CPU = torch.device("cpu")


@pytest.fixture
def copied(teacher_folder: Path, tmp_path: Path) -> TeacherFolder:
    return TeacherFolder(Path(shutil.copytree(teacher_folder, tmp_path / "teacher")))


def test_its_scores_take_the_place_of_the_datas_own(simulated: PreparedDataset, teacher_folder: Path) -> None:
    dataset = with_teacher(simulated, teacher_folder)
    expected = np.load(TeacherFolder(teacher_folder).scores)
    np.testing.assert_array_equal(dataset.interactions.teacher_scores, expected)
    assert not np.array_equal(simulated.interactions.teacher_scores, expected, equal_nan=True)
    np.testing.assert_array_equal(dataset.interactions.feedback, simulated.interactions.feedback)
    assert (dataset.data_id, simulated.teacher_id) == (simulated.data_id, "")
    assert len(dataset.teacher_id) == 64


def test_a_run_is_one_teachers(
    simulated: PreparedDataset, small_config: TrainConfig, teacher_folder: Path, tmp_path: Path
) -> None:
    """The run's data stay the prepared ones; going on with it under another teacher is refused."""
    dataset, folder = with_teacher(simulated, teacher_folder), RunFolder(tmp_path / "run")
    config = small_config.model_copy(update={"max_epochs": 1})
    run_training(dataset, config, folder, device=CPU, show_bar=False)
    assert load_run(folder.path).data_id == simulated.data_id
    assert read_metrics(folder)["teacher_id"] == dataset.teacher_id
    told = f"the run was started with teacher_id {dataset.teacher_id[:12]}, not none; give another --out"
    with pytest.raises(ConfigError, match=told):
        run_training(simulated, config, folder, device=CPU, show_bar=False)
    alone = RunFolder(tmp_path / "alone")
    run_training(simulated, config, alone, device=CPU, show_bar=False)
    first, other = read_metrics(folder)["losses"], read_metrics(alone)["losses"]
    assert first[0]["distillation"] != other[0]["distillation"]


def test_an_unfinished_teacher_is_refused(simulated: PreparedDataset, copied: TeacherFolder) -> None:
    copied.report.unlink()
    with pytest.raises(ConfigError, match=r"no finished teacher, teacher\.json is missing; run 'ranktower teach'"):
        with_teacher(simulated, copied.path)


def test_a_teacher_of_other_data_is_refused(simulated: PreparedDataset, teacher_folder: Path) -> None:
    rows = simulated.interactions
    other = with_content_id(replace(simulated, interactions=replace(rows, timestamp=rows.timestamp + 1)))
    told = f"a teacher of other data \\(data_id {simulated.data_id[:12]}, not {other.data_id[:12]}\\)"
    with pytest.raises(ConfigError, match=told):
        with_teacher(other, teacher_folder)


def test_damaged_files_are_named(simulated: PreparedDataset, copied: TeacherFolder) -> None:
    scores = np.load(copied.scores)
    scores[0] = 0.5
    np.save(copied.scores, scores)
    with pytest.raises(ConfigError, match=r"teacher_scores\.npy: damaged, its SHA-256 is not the teacher_id of"):
        with_teacher(simulated, copied.path)
    copied.scores.write_bytes(b"no array")
    with pytest.raises(ConfigError, match=r"teacher_scores\.npy: cannot be read"):
        with_teacher(simulated, copied.path)
    copied.scores.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"teacher_scores\.npy: cannot be read: .*; run 'ranktower teach'"):
        with_teacher(simulated, copied.path)
    copied.report.write_text("{")
    with pytest.raises(ConfigError, match=r"teacher\.json: cannot be read"):
        with_teacher(simulated, copied.path)
    for text, lacking in (("{}", "data_id, teacher_id, config"), ('{"data_id": "0"}', "teacher_id"), ("1", "data_id")):
        copied.report.write_text(text)
        with pytest.raises(ConfigError, match=rf"teacher\.json: damaged, it lacks {lacking}"):
            with_teacher(simulated, copied.path)
