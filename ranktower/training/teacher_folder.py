"""The folder of a teacher: what is in it, and the soft labels it gives to a prepared data set."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ranktower.data.dataset import PreparedDataset, array_sha256
from ranktower.errors import ConfigError
from ranktower.training.ranker_training import Floats


@dataclass(frozen=True)
class TeacherFolder:
    """Names of the files of one teacher."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole configuration, defaults included."""
        return self.path / "config.yaml"

    @property
    def scores(self) -> Path:
        """The soft labels, float32, one an interaction of the prepared data; NaN where there is none."""
        return self.path / "teacher_scores.npy"

    @property
    def report(self) -> Path:
        """Ids, weights and quality; there once the teacher is finished."""
        return self.path / "teacher.json"

    def member(self, name: str, fold: int) -> Path:
        """A ranker trained without one fold: its weights and what it predicts."""
        return self.path / f"{name}-fold{fold}.safetensors"

    def read_report(self, dataset: PreparedDataset) -> dict[str, Any]:
        """The report of a finished teacher of ``dataset``.

        Raises:
            ConfigError: there is no finished teacher in the folder, or it is one of other data.
        """
        try:
            report: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path}: no finished teacher, {self.report.name} is missing; run 'ranktower teach'"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.report}: cannot be read: {error}") from None
        if report["data_id"] != dataset.data_id:
            raise ConfigError(
                f"{self.path}: a teacher of other data (data_id {report['data_id'][:12]}, not {dataset.data_id[:12]})"
            )
        return report

    def write(self, scores: Floats, report: dict[str, Any]) -> None:
        """Write scores and report, each aside and renamed; the report comes last, and says that all is there."""
        aside = self.scores.with_name(f".{self.scores.stem}.part.npy")
        np.save(aside, scores, allow_pickle=False)
        aside.replace(self.scores)
        aside = self.report.with_name(f".{self.report.name}.part")
        aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        aside.replace(self.report)


def with_teacher(dataset: PreparedDataset, folder: Path) -> PreparedDataset:
    """The data set with a teacher's soft labels in place of those that it came with, and with its ``teacher_id``.

    ``data_id`` stays that of the prepared folder, which still is what a run's model is evaluated and exported on. To be
    trained on, not to be saved.

    Raises:
        ConfigError: no finished teacher of this data set lies in ``folder``, or its scores are damaged.
    """
    teacher = TeacherFolder(folder)
    report = teacher.read_report(dataset)
    try:
        scores: Floats = np.load(teacher.scores, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{teacher.scores}: cannot be read: {error}") from None
    if array_sha256(scores) != report["teacher_id"]:
        raise ConfigError(f"{teacher.scores}: damaged, its SHA-256 is not the teacher_id of {teacher.report.name}")
    return replace(
        dataset,
        interactions=replace(dataset.interactions, teacher_scores=scores),
        info={**dataset.info, "teacher_id": report["teacher_id"]},
    )
