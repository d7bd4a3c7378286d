"""Latency while releases flip under load: between two that are open already, and among three, so that each is loaded.

Run: ``python benchmarks/release_swap.py``. Needs wrk and two cores; the service has one, the generator the other. Half
of the saturation rate is offered, first without a flip and then through 50 of them, in one run of the generator. A
promotion hashes the release; that runs on the generator's core, at the lowest priority. The result goes to
``benchmarks/results/release_swap-<date>.json``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import load
from reference_release import MODEL, build_reference_release
from result_file import write_result
from service_run import BUILD, SETUPS, Cores, Running, add_core_options, open_reference, running, say, take_cores

from offline.bench.answers import Answers, OpenResult
from offline.bench.offer import Phase, offer
from offline.bench.requests import random_requests
from ranktower.registry import Registry

NUM_RELEASES = {"open": 2, "loading": 3}
"""The service keeps the release before the current one, so among three the next is never open."""
_SHARE = 0.5
_CONNECTIONS = 64
_LEAST_PRIORITY = 19
# Longer than the generator needs to start, so that no flip comes before the load of the second part.
_START_S = 1.0


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10, help="of load before the first flip")
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two flips")
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        root = Path(folder)
        for number in range(max(NUM_RELEASES.values())):
            say(f"building release {number + 1}")
            build_reference_release(root, num_users=options.rows, num_items=options.rows)
        figures = {name: _measure(name, root, cores, options) for name in NUM_RELEASES}
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "num_flips": options.flips}
    settings |= {"interval_s": options.interval, "server_core": cores.server, "generator_core": cores.generator}
    write_result("release_swap", settings | {"cases": figures}, "numpy", "onnxruntime", "uvicorn")


def _measure(name: str, root: Path, cores: Cores, options: argparse.Namespace) -> dict[str, Any]:
    """One service under load, its releases flipping in turn."""
    release = open_reference(root)
    releases = [release.manifest.release]
    releases += [one for one in Registry(root).releases(MODEL) if one not in releases][: NUM_RELEASES[name] - 1]
    bodies = random_requests(release.folder, num_candidates=options.candidates).bodies
    with running(release, SETUPS["local"], {cores.server}) as service:
        saturated = load.saturation(service.address, bodies, seconds=options.seconds, cores={cores.generator})
        rate = _SHARE * saturated.requests_per_s
        say(f"{name}: {options.flips} flips at {rate:.0f} requests/s")
        if name == "open":
            _open(service, root, releases)
        flipping_s = (options.flips + 1) * options.interval  # the last one is to be served before the load ends
        phases = [Phase(rate, options.seconds, 0), Phase(rate, flipping_s, 1)]
        with ThreadPoolExecutor(1, initializer=_lower_priority) as executor:
            flipping = executor.submit(_flip, root, releases, options)
            endpoint = load.endpoint(service.address)
            answers = offer(endpoint, bodies, phases, connections=_CONNECTIONS, cores={cores.generator})
            flipping.result()
    before = answers.between(0, options.seconds)
    during = answers.between(options.seconds, options.seconds + flipping_s)
    return {"rate_per_s": round(rate, 1), **swap_figures(before, during, options.seconds, flipping_s)}


def swap_figures(before: Answers, during: Answers, before_s: float, during_s: float) -> dict[str, Any]:
    """Both parts of a run beside each other, and how often one release's answer came behind another's."""
    first, second = OpenResult.of(before, seconds=before_s), OpenResult.of(during, seconds=during_s)
    named = [release.decode() for release in during.release.tolist() if release]
    return {
        "before": load.figures(first),
        "during": load.figures(second),
        "p99_during_to_before": round(second.p99_ms / first.p99_ms, 2),
        "max_during_to_p99_before": round(second.max_ms / first.p99_ms, 2),
        "failed": second.errors,
        "answers_by_release": dict(sorted(Counter(named).items())),
        "num_changes_seen": sum(a != b for a, b in itertools.pairwise(named)),
    }


def _open(service: Running, root: Path, releases: Sequence[str]) -> None:
    """Have the service open all of them once, so that a flip loads nothing; the first is current again at the end."""
    for release in [*releases[1:], releases[0]]:
        Registry(root).promote(MODEL, release)
        while httpx.get(f"{service.address}/v1/release").json()["release"] != release:
            time.sleep(0.05)


def _flip(root: Path, releases: Sequence[str], options: argparse.Namespace) -> None:
    started = time.monotonic()
    for number in range(options.flips):
        due = started + _START_S + options.seconds + number * options.interval
        time.sleep(max(0.0, due - time.monotonic()))
        Registry(root).promote(MODEL, releases[(number + 1) % len(releases)])


def _lower_priority() -> None:
    # Of this thread alone; on Linux each has its own.
    os.setpriority(os.PRIO_PROCESS, 0, _LEAST_PRIORITY)


if __name__ == "__main__":
    main()
