"""What is measured of a server: that its scores are right, throughput and latency; and the generators' own speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx
import load
import numpy as np
from contenders import FLOAT16, Contender
from job import PATH
from numpy.typing import NDArray
from prepare import Request
from servers import say

TOLERANCE = 1e-4
# Of rows rounded to float16: a bound on what the rounding does, several times what was seen (0.0017), and no promise.
FLOAT16_TOLERANCE = 0.01
CONNECTIONS = (1, 4, 16)
OPEN_CONNECTIONS = 64
_WARM_UP_S = 1
_ACCEPTED_ERRORS = 0.01
# Offered to the echo server, until it no longer answers as many.
_PROOF_RATES = (500, 1000, 2000, 4000, 6000)


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Attributes:
        requests: in the order in which they are sent.
        seconds: of each run.
        core: of the generator.
    """

    requests: list[Request]
    seconds: int
    core: int

    @property
    def bodies(self) -> list[bytes]:
        """The requests as JSON."""
        return [request.body for request in self.requests]

    def closed(self, address: str, connections: int, seconds: int | None = None) -> load.ClosedResult:
        """Throughput.

        Raises:
            RuntimeError: more than one answer in a hundred was no good one.
        """
        seconds = seconds or self.seconds
        result = load.closed_loop(
            address,
            self.bodies,
            path=PATH,
            connections=connections,
            seconds=seconds,
            cores={self.core},
        )
        if result.errors > _ACCEPTED_ERRORS * result.requests_per_s * seconds:
            raise RuntimeError(f"{address}: {result.errors} requests failed: {result}")
        return result

    def open(self, address: str, rate: float) -> load.OpenResult:
        """Latency at a fixed rate."""
        return load.open_loop(
            address,
            self.bodies,
            path=PATH,
            rate=rate,
            seconds=self.seconds,
            connections=OPEN_CONNECTIONS,
            cores={self.core},
        )


@contextmanager
def warm(contender: Contender, bench: Bench) -> Iterator[str]:
    """The contender up and warmed; yields its address."""
    with contender.run() as address:
        bench.closed(address, 4, _WARM_UP_S)
        yield address


def agreement(contender: Contender, requests: list[Request], expected: list[NDArray[np.float32]]) -> dict[str, float]:
    """Largest absolute difference of the contender's scores to torch's, over ``requests``.

    Raises:
        RuntimeError: it is above what the stored rows allow, or a score is missing.
    """
    tolerance = FLOAT16_TOLERANCE if contender.name in FLOAT16 else TOLERANCE
    difference = 0.0
    with contender.run() as address, httpx.Client(timeout=30) as client:
        for request, wanted in zip(requests, expected, strict=True):
            headers = {"content-type": "application/json"}
            answer = client.post(address + PATH, content=request.body, headers=headers)
            if answer.status_code != 200:
                raise RuntimeError(f"{contender.name}: {answer.status_code} {answer.text[:200]}")
            scores = np.array(answer.json()["scores"], dtype=np.float64)
            if scores.shape != wanted.shape or not np.isfinite(scores).all():
                raise RuntimeError(
                    f"{contender.name}: {len(scores)} scores, some missing, for {len(wanted)} candidates"
                )
            difference = max(difference, float(np.abs(scores - wanted).max()))
    say(f"{contender.name}: scores within {difference:.1e} of torch's")
    if difference > tolerance:
        raise RuntimeError(f"{contender.name}: scores differ from torch's by {difference:.1e}, more than {tolerance}")
    return {"max_abs_difference": difference, "tolerance": tolerance, "num_requests": len(requests)}


def generator_proof(echo: Contender, bench: Bench) -> dict[str, Any]:
    """How fast the generators are against a server that does nothing."""
    held = []
    with warm(echo, bench) as address:
        closed = bench.closed(address, 16)
        for rate in _PROOF_RATES:
            result = bench.open(address, rate)
            if result.errors or result.achieved_per_s < 0.95 * result.offered_per_s:
                break
            held.append(load.figures(result))
    say(f"generators against echo: closed loop {closed.requests_per_s:.0f}/s, open loop {len(held)} rates held")
    return {"closed": load.figures(closed), "open": held}


def throughput(contenders: list[Contender], bench: Bench, rounds: int) -> dict[str, dict[str, Any]]:
    """Closed loop at each number of connections, the contenders in turns; the best is of the rounds' medians."""
    rates: dict[str, dict[int, list[float]]] = {c.name: {n: [] for n in CONNECTIONS} for c in contenders}
    errors = {contender.name: 0 for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            with warm(contender, bench) as address:
                for connections in CONNECTIONS:
                    result = bench.closed(address, connections)
                    rates[contender.name][connections].append(round(result.requests_per_s, 1))
                    errors[contender.name] += result.errors
                    told = f"{result.requests_per_s:.1f} requests/s, {result.errors} errors"
                    say(f"round {number + 1}: {contender.name}, {connections} connections: {told}")
    return {name: _best(found) | {"errors": errors[name]} for name, found in rates.items()}


def latency(
    contenders: list[Contender], bench: Bench, rounds: int, rates: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """Open loop at the rates wanted of each contender, in turns; medians over the rounds, and every round.

    Args:
        contenders: to measure.
        bench: how.
        rounds: how often.
        rates: requests a second by the name of a rate (half, common) and of a contender; one may lack a contender.
    """
    runs: dict[str, dict[str, list[dict[str, float]]]] = {kind: {name: [] for name in of} for kind, of in rates.items()}
    for number in range(rounds):
        for contender in contenders:
            with warm(contender, bench) as address:
                for kind, wanted in rates.items():
                    if contender.name not in wanted:
                        continue
                    result = bench.open(address, wanted[contender.name])
                    runs[kind][contender.name].append(load.figures(result))
                    told = f"p50 {result.p50_ms:.2f} ms, p99 {result.p99_ms:.2f} ms, {result.errors} errors"
                    say(f"round {number + 1}: {contender.name} at {wanted[contender.name]:.0f}/s ({kind}): {told}")
    return {kind: {name: _medians(found) for name, found in of.items()} for kind, of in runs.items()}


def _best(rates: dict[int, list[float]]) -> dict[str, Any]:
    connections = max(rates, key=lambda number: median(rates[number]))
    return {
        "requests_per_s": median(rates[connections]),
        "connections": connections,
        "rounds": {str(number): found for number, found in rates.items()},
    }


def _medians(runs: list[dict[str, float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {name: round(median(run[name] for run in runs), 3) for name in runs[0]}
    return summary | {"rounds": runs}
