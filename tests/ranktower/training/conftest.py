"""A small teacher, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranktower.data.dataset import PreparedDataset
from ranktower.training.teacher import TeacherTrainer
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder

SMALL_TEACHER = TeacherConfig.model_validate(
    {
        "members": [
            {"name": "deepfm", "width": 4, "hidden": [8]},
            {"name": "deep_crossing", "width": 4, "hidden": [8]},
            {"name": "dcn_v2", "width": 4, "num_cross_layers": 1, "rank": 4, "hidden": [8]},
            {"name": "xdeepint", "width": 4, "num_layers": 1},
        ],
        "num_folds": 3,
        "max_epochs": 1,
        "validations_per_epoch": 1,
        "batch_pairs": 128,
        "learning_rate": 0.01,
    }
)


@pytest.fixture(scope="session")
def small_teacher() -> TeacherConfig:
    """Four rankers, three folds, one epoch: seconds."""
    return SMALL_TEACHER


@pytest.fixture(scope="session")
def teacher_folder(simulated: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that teacher, finished, on ``simulated``; not to be written to."""
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    TeacherTrainer(
        simulated, SMALL_TEACHER, TeacherFolder(folder), device=torch.device("cpu"), progress_bar=False
    ).fit()
    return folder
