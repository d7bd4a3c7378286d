"""An open loop: requests are sent at given times, whatever the server does.

A closed loop sends a connection's next request once the last one is answered, so a server that stalls is sent less and
the wait does not show. Here it does. The generator, ``open_loop``, is a process of its own, so that nothing the caller
does delays a request.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline.bench.answers import Answers
from ranktower.errors import RankTowerError

# In the folder that the two processes share.
ANSWERS_FILE = "answers.npz"
BODIES_FILE = "bodies"
JOB_FILE = "job.json"
SCHEDULE_FILE = "schedule.npy"
# How long after the last due time an answer is waited for.
ANSWER_TIMEOUT_S = 10
_START_TIMEOUT_S = 60


@dataclass(frozen=True)
class Endpoint:
    """Where requests are posted to; ``headers`` come beside the host, the type and the length."""

    host: str
    port: int
    path: str = "/v1/score"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A time in which requests are due at one rate.

    Attributes:
        rate: requests a second.
        seconds: how long; at least one request is due.
        poisson_seed: of random times (a Poisson process, given their number); even distances where None.
    """

    rate: float
    seconds: float
    poisson_seed: int | None = None

    def schedule(self) -> NDArray[np.float64]:
        """Due times in seconds from the start of the phase, ascending, ``[rate * seconds]``."""
        count = max(1, round(self.rate * self.seconds))
        if self.poisson_seed is None:
            return np.arange(count) / self.rate
        return np.sort(np.random.default_rng(self.poisson_seed).uniform(0, self.seconds, count))


def offer(
    endpoint: Endpoint,
    bodies: Sequence[bytes],
    phases: Sequence[Phase],
    *,
    connections: int,
    cores: Collection[int] = (),
) -> Answers:
    """Post ``bodies`` in turn, phase after phase, and wait for the answers.

    Args:
        endpoint: an HTTP/1.1 server.
        bodies: JSON, sent in this order again and again. None may hold a line break.
        phases: at least one.
        connections: a request that finds none free waits, and its latency counts the wait.
        cores: of the generator; those of this process where empty.

    Raises:
        RankTowerError: nothing listens on the endpoint, the answers are not HTTP/1.1 of a known length, or the
            generator does not come to an end.
    """
    if not bodies or any(b"\n" in body or b"\r" in body for body in bodies):
        raise ValueError("bodies: needs at least one, and none with a line break")
    starts = np.cumsum([0.0, *(phase.seconds for phase in phases[:-1])])
    schedule = np.concatenate([start + phase.schedule() for start, phase in zip(starts, phases, strict=True)])
    job = {"host": endpoint.host, "port": endpoint.port, "path": endpoint.path, "headers": dict(endpoint.headers)}
    job |= {"connections": connections, "cores": sorted(cores), "timeout_s": ANSWER_TIMEOUT_S}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Not on the command line, which every user of the machine can read: a header may be a key.
        (folder / JOB_FILE).write_text(json.dumps(job), encoding="utf-8")
        (folder / BODIES_FILE).write_bytes(b"\n".join(bodies))
        np.save(folder / SCHEDULE_FILE, schedule)
        _generate(name, timeout_s=float(schedule[-1]) + ANSWER_TIMEOUT_S + _START_TIMEOUT_S)
        return Answers.load(folder / ANSWERS_FILE)


def _generate(folder: str, *, timeout_s: float) -> None:
    """Run the generator; it is killed when it takes far longer than it should, or when we are interrupted."""
    command = [sys.executable, "-m", "offline.bench.open_loop", folder]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RankTowerError(f"the load generator was killed: not at its end after {timeout_s:.0f} s") from None
    if finished.returncode != 0:
        raise RankTowerError(f"the load generator failed: {finished.stderr.strip()}")
