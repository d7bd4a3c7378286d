from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from ranktower import __version__, cli
from ranktower.errors import ConfigError


def fake(monkeypatch: pytest.MonkeyPatch, name: str, command: Any) -> None:
    """One registered command, so that what ``main`` does with its outcome is tested without running a real job."""
    entry = EntryPoint(name, "offline.somewhere:main", cli.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: command)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ranktower {__version__}\n"
    assert cli.main([]) == 0
    assert "ranktower serve --help" in capsys.readouterr().out


def test_an_unknown_command_is_named_beside_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frobnicate"]) == 2
    error = capsys.readouterr().err
    assert "unknown command 'frobnicate'" in error
    assert "precompute" in error


def test_a_users_error_is_one_line_without_a_stack_trace() -> None:
    command = [sys.executable, "-m", "ranktower.cli", "train", "--data", "/nowhere", "--out", "/nowhere/run"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("ranktower train: /nowhere")
    assert "Traceback" not in result.stderr


def test_the_error_text_and_status_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(argv: list[str]) -> int:
        raise ConfigError(f"--k must be at least 1, got {argv[0]}")

    fake(monkeypatch, "evaluate", fails)
    assert cli.main(["evaluate", "0"]) == 2
    assert capsys.readouterr().err == "ranktower evaluate: --k must be at least 1, got 0\n"


def test_a_folder_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def writes(argv: list[str]) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "file" / "run").mkdir(parents=True)

    fake(monkeypatch, "train", writes)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == f"ranktower train: [Errno 20] Not a directory: '{tmp_path / 'file' / 'run'}'\n"


def test_a_terminated_command_tidies_up(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def waits(argv: list[str]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            done.append(True)

    fake(monkeypatch, "demo", waits)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that without a handler the test fails, and pytest lives
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["demo"])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert done == [True]


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    fake(monkeypatch, "train", interrupted)
    assert cli.main(["train"]) == 130
    assert "run it again to go on" in capsys.readouterr().err


def test_an_interrupt_while_the_libraries_load_leaves_no_stack_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(self: EntryPoint) -> Any:
        raise KeyboardInterrupt

    fake(monkeypatch, "train", None)
    monkeypatch.setattr(EntryPoint, "load", load)
    assert cli.main(["train"]) == 130
    assert "ranktower train: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"),
    [("offline.train", "offline"), ("model_export.command", "export"), ("offline.experiment.command", "experiments")],
)
def test_a_missing_library_prints_the_install_line(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = EntryPoint("train", f"{module}:main", cli.GROUP)

    def load(self: EntryPoint) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == (
        f"ranktower train: the package 'torch' is not installed; pip install 'ranktower[{extra}]'\n"
    )
