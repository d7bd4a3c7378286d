"""Servers are really started, answer, and leave nothing behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import servers
from contenders import Contender
from job import PATH
from measure import agreement
from prepare import Request
from servers import ECHO, PEERS, Peer, environment, running

BODY = b'{"user_id": 1, "candidate_ids": [1, 2, 3]}'
BIN = Path(sys.executable).parent
# A child in a session of its own, as Ray starts its daemons: no signal to the server's group reaches it.
WITH_DAEMON = """
import subprocess, sys, uvicorn
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[2], "w").write(str(child.pid))
uvicorn.run("echo:app", port=int(sys.argv[1]), log_level="critical")
"""


@pytest.fixture
def core() -> int:
    return min(os.sched_getaffinity(0))


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def test_a_server_and_its_daemon_run_on_one_core_and_end(tmp_path: Path, core: int) -> None:
    script, pid_file = tmp_path / "server.py", tmp_path / "pid"
    script.write_text(WITH_DAEMON)
    peer = Peer("daemon", lambda bin_dir, port: [str(bin_dir / "python"), str(script), str(port), str(pid_file)])
    with running(peer, BIN, tmp_path, core=core, body=BODY) as address:
        answer = httpx.post(address + PATH, content=BODY)
        daemon = int(pid_file.read_text())
        assert len(answer.json()["scores"]) == 3
        assert os.sched_getaffinity(daemon) == {core}
    deadline = time.monotonic() + 10
    while is_alive(daemon):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(httpx.ConnectError):
        httpx.post(address + PATH, content=BODY)


def test_a_server_ends_when_the_measurement_fails(tmp_path: Path, core: int) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        running(ECHO, BIN, tmp_path, core=core, body=BODY) as address,
    ):
        raise KeyboardInterrupt
    with pytest.raises(httpx.ConnectError):
        httpx.post(address + PATH, content=BODY)


def test_a_server_that_ends_shows_its_log(tmp_path: Path, core: int) -> None:
    code = "raise SystemExit('no such model')"
    peer = Peer("broken", lambda bin_dir, port: [str(bin_dir / "python"), "-c", code])
    with (
        pytest.raises(RuntimeError, match=r"broken did not start \(no answer\)(.|\n)*no such model"),
        running(peer, BIN, tmp_path, core=core, body=BODY),
    ):
        pass


def test_wrong_scores_stop_the_run(tmp_path: Path, core: int) -> None:
    """The echo server answers as many scores as wanted, all the same."""
    echo = Contender("echo", lambda: running(ECHO, BIN, tmp_path, core=core, body=BODY))
    request = Request(0, np.arange(3), 1, [1, 2, 3])
    with pytest.raises(RuntimeError, match=r"echo: scores differ from torch's by 1\.\d+e\+00, more than 0\.0001"):
        agreement(echo, [request], [np.array([3.8467891, 2.0, 3.8467891], dtype=np.float32)])
    found = agreement(echo, [request], [np.full(3, 3.8467891, dtype=np.float32)])
    assert found["max_abs_difference"] < 1e-6


@pytest.fixture
def peers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``peers_folder(text)`` writes the requirements of a peer called "sample" and returns the file."""
    monkeypatch.setattr(servers, "HERE", tmp_path)
    monkeypatch.setattr(servers, "BUILD", tmp_path / "build")

    def write(text: str) -> Path:
        path = tmp_path / "requirements-sample.txt"
        path.write_text(text)
        return path

    return write


def test_an_environment_is_made_once_for_its_requirements(
    peers_folder: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Peer("sample", lambda bin_dir, port: [])
    peers_folder("# nothing\n")
    bin_dir = environment(sample)
    assert (bin_dir / "python").exists()
    assert environment(sample) == bin_dir
    assert capsys.readouterr().err.count("installing") == 1
    peers_folder("this is no requirement\n")
    with pytest.raises(SystemExit, match=r"sample: requirements-sample.txt cannot be installed:(.|\n)*requirement"):
        environment(sample)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_version_of_a_peer_is_pinned_without_an_address(peer: Peer) -> None:
    folder = Path(servers.__file__).parent
    lines = (folder / f"requirements-{peer.name}.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines), lines
    # The model runs on the same libraries everywhere.
    ours = (folder.parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for library in ("numpy", "onnxruntime"):
        assert next(line for line in lines if line.startswith(f"{library}==")) in ours
