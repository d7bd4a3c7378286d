"""The load generators of the benchmarks: a closed loop (wrk) for throughput, an open loop of our own for latency.

A closed loop sends a connection's next request once the last one is answered, so it finds the highest rate but hides
waiting: a server that stalls is sent less. The open loop, that of ``ranktower bench``, sends at a rate whatever the
server does, and counts each latency from the moment at which the request was due. Both run in processes of their own,
on their own cores.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline.bench.answers import OpenResult, rounded
from offline.bench.offer import ANSWER_TIMEOUT_S, Endpoint, Phase, offer

_START_TIMEOUT_S = 60
_SATURATING_CONNECTIONS = 16

# The bodies are read once a thread and made into whole requests, so that a request costs wrk a copy and no formatting.
_WRK_SCRIPT = """
local threads = 0
function setup(thread)
  thread:set("offset", threads)
  threads = threads + 1
end

local requests, number = {}, 0
function init(arguments)
  local headers = {["content-type"] = "application/json"}
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", wrk.path, headers, line)
  end
  number = math.floor(#requests / 2) * offset
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %d, "duration_us": %d, "failed": %d, "status": %d, "us": [%d, %d, %d, %d]}\\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"""


@dataclass(frozen=True)
class ClosedResult:
    """What a closed loop saw.

    Attributes:
        requests_per_s: answered requests a second, whatever their status.
        p50_ms, p90_ms, p99_ms, max_ms: wrk's latencies; for a rate that users would see, use an open loop.
        non_2xx: answers with status 400 or above.
        failed: connections refused or broken and answers that did not come within ``ANSWER_TIMEOUT_S``.
    """

    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    non_2xx: int
    failed: int

    @property
    def errors(self) -> int:
        """Requests that did not get a good answer."""
        return self.non_2xx + self.failed


@dataclass(frozen=True)
class PoissonRate:
    """``per_second`` requests, at random times that ``seed`` fixes."""

    per_second: float
    seed: int = 0


def closed_loop(
    address: str,
    bodies: Sequence[bytes],
    *,
    path: str = "/v1/score",
    connections: int,
    seconds: int,
    cores: set[int],
) -> ClosedResult:
    """Post ``bodies`` in turn over keep-alive connections, each sending as soon as its last request is answered.

    Args:
        address: such as ``http://127.0.0.1:8000``.
        bodies: JSON request bodies, sent in this order again and again. None may hold a line break.
        path: what to post to.
        connections: how many requests are in flight at a time.
        seconds: whole seconds to run.
        cores: of the generator.

    Raises:
        RuntimeError: wrk is missing or failed; nothing listens on the address.
        ValueError: there is no body, or one has a line break.
    """
    threads = min(len(cores), connections)
    with tempfile.TemporaryDirectory() as folder:
        written = _write_bodies(folder, bodies)
        wrk = shutil.which("wrk")
        if wrk is None:
            raise RuntimeError("wrk is not on the PATH; it is in the Debian package wrk: apt-get install wrk")
        script = Path(folder) / "rotate.lua"
        script.write_text(_WRK_SCRIPT, encoding="utf-8")
        command = [wrk, f"-t{threads}", f"-c{connections}", f"-d{seconds}s", f"--timeout={ANSWER_TIMEOUT_S}s"]
        command += ["--latency", f"--script={script}", address + path, "--", str(written)]
        printed = _run(command, cores, seconds)
    line = next((line for line in printed.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk gave no result for {address}{path}: {printed.strip()}")
    result = json.loads(line.removeprefix("RESULT "))
    p50, p90, p99, slowest = (value / 1e3 for value in result["us"])
    rate = result["requests"] / (result["duration_us"] / 1e6)
    return ClosedResult(rate, p50, p90, p99, slowest, non_2xx=result["status"], failed=result["failed"])


def saturation(address: str, bodies: Sequence[bytes], *, seconds: int, cores: set[int]) -> ClosedResult:
    """A closed loop with more in flight than the server can use, after a second of the same to warm up."""
    for length in (1, seconds):
        result = closed_loop(address, bodies, connections=_SATURATING_CONNECTIONS, seconds=length, cores=cores)
    return result


def open_loop(
    address: str,
    bodies: Sequence[bytes],
    *,
    path: str = "/v1/score",
    rate: float | PoissonRate,
    seconds: float,
    connections: int,
    cores: set[int],
) -> OpenResult:
    """Post ``bodies`` in turn at a rate, whether or not the server keeps up.

    Args:
        address: such as ``http://127.0.0.1:8000``.
        bodies: JSON request bodies, sent in this order again and again. None may hold a line break.
        path: what to post to.
        rate: requests a second at even distances, or ``PoissonRate``.
        seconds: for how long requests are due; the run ends when they are answered.
        connections: a request that finds none free waits, and its latency counts the wait.
        cores: of the generator.

    Raises:
        RankTowerError: nothing listens on the address, or the answers are not HTTP/1.1 of a known length.
    """
    poisson = rate if isinstance(rate, PoissonRate) else None
    phase = Phase(poisson.per_second, seconds, poisson.seed) if poisson else Phase(rate, seconds)
    answers = offer(endpoint(address, path), bodies, [phase], connections=connections, cores=cores)
    return OpenResult.of(answers, seconds=seconds)


def endpoint(address: str, path: str = "/v1/score") -> Endpoint:
    """Of an address such as ``http://127.0.0.1:8000``."""
    host, _, port = address.removeprefix("http://").partition(":")
    return Endpoint(host, int(port), path)


def figures(result: ClosedResult | OpenResult) -> dict[str, float | None]:
    """A result for a result file: rates to one decimal, milliseconds to three."""
    return rounded(dataclasses.asdict(result))


def _write_bodies(folder: str, bodies: Sequence[bytes]) -> Path:
    if not bodies or any(b"\n" in body for body in bodies):
        raise ValueError("bodies: needs at least one, and none with a line break")
    path = Path(folder) / "bodies"
    path.write_bytes(b"\n".join(bodies) + b"\n")
    return path


def _run(command: list[str], cores: set[int], seconds: float) -> str:
    """The output of a generator; it is killed when it takes far longer than it should, or we are interrupted."""
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + ANSWER_TIMEOUT_S + _START_TIMEOUT_S,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {finished.stderr.strip() or finished.stdout.strip()}")
    return finished.stdout
