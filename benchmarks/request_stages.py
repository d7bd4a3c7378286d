"""Where the time of a request goes, at 10 to 10,000 candidates, from each kind of store.

Run: ``python benchmarks/request_stages.py``. Needs wrk, a redis-server and two cores. The service has one core; the
generator and Redis have the other. One connection sends its next request once the last is answered. The stages are the
service's own histograms, the processor time is that of its process, and what no stage counts is called framework: the
HTTP protocol, the sockets and the event loop. Fetch is the lookup of the ids, for the scorer reads the rows where they
are, and of Redis the wait for it too. The result goes to ``benchmarks/results/request_stages-<date>.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import load
from redis_run import RunningRedis, fill_redis, redis_server
from result_file import write_result
from service_run import (
    SETUPS,
    Cores,
    Release,
    Running,
    add_core_options,
    process_cpu_s,
    reference,
    running,
    say,
    stage_microseconds,
    take_cores,
)

from offline.bench.requests import random_requests

CANDIDATES = (10, 100, 1000, 10_000)
NAMES = ("local", "local, string ids", "local, embedding rows", "Redis")
STAGES = ("parse", "fetch", "score", "serialize")
_REQUESTS = {10: 500, 100: 500, 1000: 200, 10_000: 50}


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    releases = {name: reference(SETUPS[name], num_users=options.rows, num_items=options.rows) for name in NAMES}
    with redis_server() as redis:
        fill_redis(releases["Redis"], redis.url)
        runs: dict[str, dict[int, list[dict[str, float]]]] = {name: {n: [] for n in CANDIDATES} for name in NAMES}
        for number in range(options.rounds):
            for name, release in releases.items():
                say(f"round {number + 1} of {options.rounds}: {name}")
                for size, found in _measure(name, release, cores, redis, options.seconds):
                    runs[name][size].append(found)
    figures: dict[str, Any] = {name: {str(n): _medians(found) for n, found in of.items()} for name, of in runs.items()}
    for name in NAMES:
        for size in CANDIDATES:
            figures[name][str(size)] |= _rest(figures, name, str(size))
    settings = {"num_rows": options.rows, "seconds": options.seconds, "rounds": options.rounds}
    settings |= {"server_core": cores.server, "generator_core": cores.generator}
    write_result("request_stages", settings | {"stages": figures}, "numpy", "onnxruntime", "uvicorn", "redis")


def _measure(
    name: str, release: Release, cores: Cores, redis: RunningRedis, seconds: int
) -> Iterator[tuple[int, dict[str, float]]]:
    """Microseconds a request of one service, at each number of candidates."""
    setup = SETUPS[name]
    with running(release, setup, {cores.server}, redis_url=redis.url) as service:
        for size in CANDIDATES:
            bodies = random_requests(release.folder, num_candidates=size, num_bodies=_REQUESTS[size]).bodies
            load.closed_loop(service.address, bodies, connections=1, seconds=1, cores={cores.generator})
            yield size, _one_run(service, bodies, redis if setup.in_redis else None, cores, seconds)


def _one_run(
    service: Running, bodies: list[bytes], redis: RunningRedis | None, cores: Cores, seconds: int
) -> dict[str, float]:
    stages_before, cpu_before = service.stages(), service.cpu_s()
    redis_before = process_cpu_s(redis.pid) if redis else 0.0
    result = load.closed_loop(service.address, bodies, connections=1, seconds=seconds, cores={cores.generator})
    cpu_s = service.cpu_s() - cpu_before
    redis_s = process_cpu_s(redis.pid) - redis_before if redis else 0.0
    stages_after = service.stages()
    if result.errors:
        raise RuntimeError(f"{service.address}: {result.errors} requests failed")
    requests = stages_after["score"][1] - stages_before["score"][1]
    stages = stage_microseconds(stages_before, stages_after)
    found = {f"{stage}_us": stages[stage] for stage in STAGES}
    found |= {"cpu_us": cpu_s / requests * 1e6, "requests_per_s": result.requests_per_s, "p50_us": result.p50_ms * 1e3}
    return found | ({"redis_server_us": redis_s / requests * 1e6} if redis else {})


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}


def _rest(figures: dict[str, Any], name: str, size: str) -> dict[str, float]:
    """What is left of the processor time: the framework; while Redis is waited for, it and the fetch's own work."""
    of = figures[name][size]
    local = figures["local"][size]
    if name == "Redis":
        framework = local["cpu_us"] - sum(local[f"{stage}_us"] for stage in STAGES)
        own = of["cpu_us"] - of["parse_us"] - of["score_us"] - of["serialize_us"]
        return {"framework_us": round(framework, 1), "fetch_cpu_us": round(own - framework, 1)}
    return {
        "framework_us": round(of["cpu_us"] - sum(of[f"{stage}_us"] for stage in STAGES), 1),
        "neither_us": round(of["cpu_us"] - of["fetch_us"] - of["score_us"], 1),
    }


if __name__ == "__main__":
    main()
