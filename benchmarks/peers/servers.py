"""Starts and stops the servers that are compared, each alone on the server's core."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from job import FOLDER_VARIABLE, PATH
from redis_run import free_port

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "peers"
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 15.0
# Every process a server starts inherits it, so that none outlives the harness, whatever session it put itself into.
_MARK_VARIABLE = "RANKTOWER_PEER_PROCESS"


@dataclass(frozen=True)
class Peer:
    """One way to serve the job.

    Attributes:
        name: of its requirements file and its environment.
        command: from the environment's ``bin`` folder and a port to the command line.
        env: added to the environment.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    env: dict[str, str] = field(default_factory=dict)


def _uvicorn(app: str) -> Callable[[Path, int], list[str]]:
    options = ["--host", "127.0.0.1", "--workers", "1", "--no-access-log", "--log-level", "warning"]
    return lambda bin_dir, port: [str(bin_dir / "uvicorn"), app, *options, "--port", str(port)]


def _bentoml(bin_dir: Path, port: int) -> list[str]:
    return [str(bin_dir / "bentoml"), "serve", "bentoml_service:Scoring", "--host", "127.0.0.1", "--port", str(port)]


def _script(name: str) -> Callable[[Path, int], list[str]]:
    return lambda bin_dir, port: [str(bin_dir / "python"), str(HERE / name), str(port)]


# Throughput mode is the setting of Ray's own page on performance. HAProxy before the replica was slower on one core.
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
PEERS = (
    Peer("plain_fastapi", _uvicorn("plain_fastapi:app")),
    Peer("bentoml", _bentoml, {"BENTOML_DO_NOT_TRACK": "True"}),
    Peer("litserve", _script("litserve_server.py")),
    Peer("rayserve", _script("rayserve_app.py"), _RAY),
)
# In the project's own environment: what it measures is the generators.
ECHO = Peer("echo", _uvicorn("echo:app"))


def environment(peer: Peer) -> Path:
    """The ``bin`` folder of the peer's virtual environment, made anew where its requirements have changed.

    Raises:
        SystemExit: it cannot be installed.
    """
    requirements = HERE / f"requirements-{peer.name}.txt"
    folder = BUILD / peer.name
    stamp = folder / ".installed"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder / "bin"
    say(f"installing {requirements.name} into {folder}")
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--requirement", str(requirements)],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{peer.name}: {requirements.name} cannot be installed:\n{done.stderr[-2000:]}")
    stamp.write_text(wanted)
    return folder / "bin"


@contextlib.contextmanager
def running(peer: Peer, bin_dir: Path, data: Path, *, core: int, body: bytes) -> Iterator[str]:
    """The peer's server with all its processes on ``core``; yields its address once it answers ``body``.

    Raises:
        RuntimeError: it ended or did not answer in time; the message has the end of its log.
    """
    port, mark = free_port(), secrets.token_hex(16)
    log = data / f"{peer.name}.log"
    # Some of them write to their user's home and leave folders in the temporary one, whose path must be short for Ray.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
        env = {**os.environ, **peer.env, _MARK_VARIABLE: mark, FOLDER_VARIABLE: str(data), "PYTHONPATH": str(HERE)}
        env |= {"HOME": scratch, "TMPDIR": scratch, "RAY_TMPDIR": scratch}
        with log.open("wb") as output:
            server = subprocess.Popen(
                peer.command(bin_dir, port),
                cwd=HERE,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - no thread holds a lock
            )
        try:
            address = f"http://127.0.0.1:{port}"
            _await_answer(peer, server, f"{address}{PATH}", body, log)
            yield address
        finally:
            _stop(server, mark)


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _await_answer(peer: Peer, server: subprocess.Popen[bytes], url: str, body: bytes, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    last = "no answer"
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=30)
            if answer.status_code == 200:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(0.1)
    end = log.read_text(errors="replace")[-2000:]
    if "address already in use" in end.lower():
        raise RuntimeError(f"{peer.name}: another process has taken the port of {url}; run it again")
    raise RuntimeError(f"{peer.name} did not start ({last}). The end of its log:\n{end}")


def _stop(server: subprocess.Popen[bytes], mark: str) -> None:
    """First politely, then everything that carries the mark."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_STOP_TIMEOUT_S)
    while left := _marked(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.poll()
        time.sleep(0.05)
    server.wait()


def _marked(mark: str) -> list[int]:
    """Live processes started with the mark. One that has ended but is not reaped has no environment any more."""
    entry = f"{_MARK_VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found
