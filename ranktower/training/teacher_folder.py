"""The folder of a teacher: what is in it, and the soft labels it gives to a prepared data set."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ranktower.data.dataset import PreparedDataset, array_sha256
from ranktower.embedding_store.durable import write_file
from ranktower.errors import ConfigError
from ranktower.training.ranker_training import Floats
from ranktower.training.teacher_config import TeacherConfig

_KEYS = ("data_id", "teacher_id", "config", "weights_by_fold", "members", "ensemble")


class UnfinishedTeacherError(ConfigError):
    """A teacher's report or scores are missing or damaged; ``ranktower teach`` makes them from its members."""

    def __str__(self) -> str:
        return f"{super().__str__()}; run 'ranktower teach'"


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
            UnfinishedTeacherError: there is no report, or it is damaged.
            ConfigError: the teacher is one of other data.
        """
        try:
            report: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UnfinishedTeacherError(f"{self.path}: no finished teacher, {self.report.name} is missing") from None
        except (OSError, ValueError) as error:
            raise UnfinishedTeacherError(f"{self.report}: cannot be read: {error}") from None
        lacking = [key for key in _KEYS if not isinstance(report, dict) or key not in report]
        if lacking:
            raise UnfinishedTeacherError(f"{self.report}: damaged, it lacks {', '.join(lacking)}")
        if report["data_id"] != dataset.data_id:
            raise ConfigError(
                f"{self.path}: a teacher of other data (data_id {report['data_id'][:12]}, not {dataset.data_id[:12]})"
            )
        return report

    def read_scores(self, report: dict[str, Any]) -> Floats:
        """The soft labels that ``report`` tells of.

        Raises:
            UnfinishedTeacherError: they are missing, or not those whose hash is the report's ``teacher_id``.
        """
        try:
            scores: Floats = np.load(self.scores, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise UnfinishedTeacherError(f"{self.scores}: cannot be read: {error}") from None
        if array_sha256(scores) != report["teacher_id"]:
            raise UnfinishedTeacherError(
                f"{self.scores}: damaged, its SHA-256 is not the teacher_id of {self.report.name}"
            )
        return scores

    def write(self, scores: Floats, report: dict[str, Any]) -> None:
        """Write scores and report, each whole or not at all; the report comes last, and says that all is there."""
        content = io.BytesIO()
        np.save(content, scores, allow_pickle=False)
        write_file(self.scores, content.getvalue())
        write_file(self.report, (json.dumps(report, indent=2) + "\n").encode())


def check_member(path: Path, about: dict[str, Any], *, data_id: str, config: TeacherConfig) -> None:
    """Refuse a member's file that tells ``about`` itself that it is another teacher's.

    Raises:
        ConfigError: it was trained on other data or by another configuration.
    """
    for key, wanted in (("data_id", data_id), ("config_digest", config.digest())):
        # The first teachers' files have no config_digest.
        found = about.get(key, wanted)
        if found != wanted:
            raise ConfigError(
                f"{path}: of a teacher with {key} {found[:12]}, not {wanted[:12]}; each needs a folder of its own"
            )


def with_teacher(dataset: PreparedDataset, folder: Path) -> PreparedDataset:
    """The data set with a teacher's soft labels in place of those that it came with, and with its ``teacher_id``.

    ``data_id`` stays that of the prepared folder, which still is what a run's model is evaluated and exported on. To be
    trained on, not to be saved.

    Raises:
        ConfigError: no finished teacher of this data set lies in ``folder``, or its scores are damaged.
    """
    teacher = TeacherFolder(folder)
    report = teacher.read_report(dataset)
    return replace(
        dataset,
        interactions=replace(dataset.interactions, teacher_scores=teacher.read_scores(report)),
        info={**dataset.info, "teacher_id": report["teacher_id"]},
    )
