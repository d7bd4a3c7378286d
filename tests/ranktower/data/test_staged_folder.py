"""The old folder or the new one, whatever happens in between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranktower.data.staged_folder import staged_folder


def fail_while_writing(folder: Path) -> None:
    with staged_folder(folder, owned=["*.txt"]) as staging:
        (staging / "half.txt").write_text("half")
        raise KeyboardInterrupt


def test_a_write_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with staged_folder(folder, owned=["*.txt"]) as staging:
        (staging / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        fail_while_writing(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == ["old.txt"]
    with pytest.raises(KeyboardInterrupt):
        fail_while_writing(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(name="ended_process_id")
def ended_process_id_fixture() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_removed_and_a_running_ones_is_not(tmp_path: Path, ended_process_id: int) -> None:
    names = (
        f".t.staging-{ended_process_id}",
        f".t.replaced-{ended_process_id}",
        f".t.staging-{os.getppid()}",
        ".t.old",
    )
    for name in names:
        (tmp_path / name).mkdir()
    for _ in range(2):
        with staged_folder(tmp_path / "t", owned=["*.txt"]):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["t", *names[2:]])


def test_an_old_result_that_a_killed_process_had_moved_is_put_back(tmp_path: Path, ended_process_id: int) -> None:
    old = tmp_path / f".t.replaced-{ended_process_id}"
    old.mkdir()
    (old / "old.txt").write_text("old")
    with pytest.raises(RuntimeError, match="no new one"), staged_folder(tmp_path / "t", owned=["*.txt"]):
        raise RuntimeError("no new one either")
    assert (tmp_path / "t" / "old.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
