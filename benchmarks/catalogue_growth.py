"""Throughput and stages of ``/v1/score`` with 1,000 candidates from catalogues of 10^4 to 10^7 simulated items.

Run: ``python benchmarks/catalogue_growth.py``. Needs wrk and two cores, and for 10^7 items 14 GB of disk and as much
free memory for the page cache. A release that exists can be given as ``--reuse 10000000=FOLDER``. Before a service is
measured, its tables are read once from end to end, and requests are sent until the rate no longer rises: what is
measured is a catalogue in memory whose pages the process has touched, not a cold start. The result goes to
``benchmarks/results/catalogue_growth-<date>.json``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import load
from result_file import write_result
from service_run import (
    SETUPS,
    Cores,
    Release,
    Running,
    add_core_options,
    open_reference,
    reference,
    running,
    say,
    stage_microseconds,
    take_cores,
)

from offline.bench.requests import random_requests

STAGES = ("parse", "fetch", "score", "serialize")
_CONNECTIONS = 4
_NUM_REQUESTS = 1000
_READ_BYTES = 1 << 24
_STEADY = 1.02
_MOST_WARM_UPS = 15


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--reuse", nargs="*", default=[], metavar="ITEMS=FOLDER", help="registries that exist already")
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    reused = {int(size): Path(root) for size, _, root in (one.partition("=") for one in options.reuse)}
    releases = {
        size: open_reference(reused[size])
        if size in reused
        else reference(SETUPS["local"], num_users=options.users, num_items=size)
        for size in options.items
    }
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in releases}
    for number in range(options.rounds):
        for size, release in releases.items():
            say(f"round {number + 1} of {options.rounds}: {size:,} items")
            runs[size].append(_measure(release, cores, options.seconds))
    figures: dict[str, Any] = {str(size): _medians(found) for size, found in runs.items()}
    smallest = figures[str(min(releases))]["requests_per_s"]
    for found in figures.values():
        found["ratio"] = round(found["requests_per_s"] / smallest, 3)
    settings = {"num_users": options.users, "seconds": options.seconds, "rounds": options.rounds}
    settings |= {"connections": _CONNECTIONS, "server_core": cores.server, "generator_core": cores.generator}
    write_result("catalogue_growth", settings | {"items": figures}, "numpy", "onnxruntime", "uvicorn")


def _measure(release: Release, cores: Cores, seconds: int) -> dict[str, float]:
    bodies = random_requests(release.folder, num_candidates=1000, num_bodies=_NUM_REQUESTS).bodies
    for path in sorted(release.folder.rglob("*.bin")) + sorted(release.folder.rglob("*.npy")):
        _read(path)
    with running(release, SETUPS["local"], {cores.server}) as service:
        _warm_up(service, bodies, cores)
        before = service.stages()
        result = load.closed_loop(
            service.address, bodies, connections=_CONNECTIONS, seconds=seconds, cores={cores.generator}
        )
        stages = stage_microseconds(before, service.stages())
    if result.errors:
        raise RuntimeError(f"{release.root}: {result.errors} requests failed")
    found = {"requests_per_s": result.requests_per_s, "p50_us": result.p50_ms * 1e3, "p99_us": result.p99_ms * 1e3}
    return found | {f"{stage}_us": stages[stage] for stage in STAGES}


def _warm_up(service: Running, bodies: list[bytes], cores: Cores) -> None:
    """Every body is sent at least once, then until two seconds are no faster than the two before."""
    best, sent = 0.0, 0.0
    for _ in range(_MOST_WARM_UPS):
        result = load.closed_loop(service.address, bodies, connections=_CONNECTIONS, seconds=2, cores={cores.generator})
        sent += result.requests_per_s * 2
        if sent > len(bodies) and result.requests_per_s < _STEADY * best:
            return
        best = max(best, result.requests_per_s)


def _read(path: Path) -> None:
    """Into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}


if __name__ == "__main__":
    main()
