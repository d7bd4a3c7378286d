"""Runs of a learning curve under a teacher, whose opinion of what was retrieved is asked once for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from offline.experiment.describe import describe
from offline.experiment.plan import planned_runs
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, Results, read_json
from offline.experiment.runs import RunTask, execute
from offline.experiment.workspace import make_workspace
from ranktower.data.dataset import array_sha256
from ranktower.training.teacher_folder import TeacherFolder


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
        assert found["teacher_key"] == workspace.teacher_key
        written.append({path: path.stat().st_mtime_ns for path in workspace.path.rglob("teacher-*.npz")})
    assert [len(files) for files in written] == [1, 2, 2]
    assert written[1] == written[2]
    assert {path.parent.name.split("-")[0] for path in written[2]} == {"retrieval"}


def test_a_teacher_of_other_bits_keeps_the_results_and_not_what_was_begun(protocol: Protocol, tmp_path: Path) -> None:
    """As on another machine, or after its folder was lost: the same configuration, scores that differ at the end."""
    entry = protocol.dataset("tiny").model_copy(update={"teacher": True})
    workspace, results = make_workspace("tiny", entry, None, tmp_path / "work"), ResultFolder(tmp_path / "results")
    describe(workspace, results, protocol, "tiny", "command")
    done, begun = planned_runs(protocol, protocol.extras["learning_curve"], {}, seeds=1)
    execute(RunTask(done, workspace, results, "cpu", "command"))
    execute(RunTask(begun, workspace, results, "cpu", "command")).unlink()
    before = {path: path.read_bytes() for path in results.path.iterdir()}

    assert workspace.teacher is not None
    teacher = TeacherFolder(workspace.teacher)
    nudged = np.nextafter(np.load(teacher.scores), np.float32(0))
    teacher.write(nudged, read_json(teacher.report) | {"teacher_id": array_sha256(nudged)})
    describe(workspace, results, protocol, "tiny", "command")
    execute(RunTask(done, workspace, results, "cpu", "command"))
    assert {path: path.read_bytes() for path in results.path.iterdir()} == before
    found = read_json(execute(RunTask(begun, workspace, results, "cpu", "command")))
    assert found["teacher_id"] == array_sha256(nudged)
    assert found["key"] == begun.key(Results(results).data)


def test_another_configuration_or_revision_is_another_teacher(protocol: Protocol, tmp_path: Path) -> None:
    entry = protocol.dataset("tiny").model_copy(update={"teacher": True})
    members = [{"name": "deepfm", "width": 4, "hidden": [4]}]
    changes = [{}, {"teacher_revision": 1}, {"teacher_config": entry.teacher_config | {"members": members}}]
    made = [make_workspace("tiny", entry.model_copy(update=one), None, tmp_path) for one in changes]
    assert len({one.teacher_key for one in made}) == len({one.teacher for one in made}) == 3
