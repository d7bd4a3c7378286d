"""What the results of a data set stand on: counts, the teacher's quality, popularity as the least a model must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, circumstances, read_json, write_json
from offline.experiment.workspace import Workspace
from ranktower.training.config import POOLS
from ranktower.training.evaluation import evaluate, popularity_scorer
from ranktower.training.teacher_folder import TeacherFolder


def describe(workspace: Workspace, results: ResultFolder, protocol: Protocol, name: str, command: str) -> None:
    """Write ``dataset.json``, unless it is of these data, this teacher and this test already."""
    dataset, test = workspace.load(), protocol.test
    identity = workspace.identity(dataset)
    known: dict[str, Any] = {
        "dataset": name,
        "title": protocol.dataset(name).title,
        "data_id": identity.data_id,
        "teacher_key": identity.teacher_key,
        "test_users": test.max_users,
        "k": test.k,
        "impressions_k": test.impressions_k,
    }
    if results.dataset.is_file() and known.items() <= read_json(results.dataset).items():
        return
    scorer = popularity_scorer(dataset)
    popularity = {pool: evaluate(scorer, dataset, test.evaluation(pool)).summary() for pool in POOLS}
    write_json(
        results.dataset,
        {
            **known,
            **circumstances(command),
            "teacher_id": dataset.teacher_id,
            "options": dataset.info["options"],
            "counts": dataset.info["counts"],
            "popularity": popularity,
            "teacher": None if workspace.teacher is None else _teacher(workspace.teacher),
        },
    )


def _teacher(folder: Path) -> dict[str, Any]:
    """What of a teacher's report the page shows."""
    report = read_json(TeacherFolder(folder).report)
    kept = ("name", "weight", "seconds", "out_of_fold", "validation", "test")
    members = [{name: member.get(name) for name in kept} for member in report["members"]]
    return {"members": members, "ensemble": report["ensemble"]}
