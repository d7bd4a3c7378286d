"""Runs of a learning curve under a teacher, whose opinion of what was retrieved is asked once for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from offline.experiment.plan import planned_runs
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, read_json
from offline.experiment.runs import RunTask, execute
from offline.experiment.workspace import make_workspace
from ranktower.training.teacher_config import TeacherConfig


def test_every_share_of_the_users_is_compared_with_the_teacher_of_all(protocol: Protocol, tmp_path: Path) -> None:
    entry = protocol.dataset("tiny").model_copy(update={"teacher": True})
    workspace, results = make_workspace("tiny", entry, None, tmp_path / "work"), ResultFolder(tmp_path / "results")
    half, whole = planned_runs(protocol, protocol.extras["learning_curve"], {}, seeds=1)
    again = replace(whole, config=whole.config.model_copy(update={"seed": 1}))
    written = []
    for run in (half, whole, again):
        found = read_json(execute(RunTask(run, workspace, results, "cpu", "command")))
        assert (found["train_users"], found["test_users"]) == (run.train_users, 0.5)
        assert found["consistency"]["num_users"] == 20
        assert found["teacher_id"] == workspace.load().teacher_id
        assert found["teacher_config"] == TeacherConfig.parse(entry.teacher_config, where="").digest()
        written.append({path: path.stat().st_mtime_ns for path in workspace.path.rglob("teacher-*.npz")})
    assert [len(files) for files in written] == [1, 2, 2]
    assert written[1] == written[2]
    assert {path.parent.name.split("-")[0] for path in written[2]} == {"retrieval"}
