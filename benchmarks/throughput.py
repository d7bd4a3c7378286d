"""Throughput of ``/v1/score`` with 1,000 candidates, closed loop: each kind of store, both engines, and one worker
against two.

Run: ``python benchmarks/throughput.py``. Needs wrk, a redis-server and two cores. The service has one core; the
generator and Redis have the other. Two workers have both cores, and share one of them with the generator. The result
goes to ``benchmarks/results/throughput-<date>.json``.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Callable

import load
from redis_run import fill_redis, redis_server
from result_file import write_result
from service_run import (
    SETUPS,
    Cores,
    Release,
    Running,
    add_core_options,
    reference,
    running,
    say,
    take_cores,
)

from offline.bench.requests import random_requests
from service.settings import EngineChoice

CONNECTIONS = (1, 4, 16)
WORKERS = (1, 2)
ENGINES = ("native", "onnx")
_BY_ENGINE = "local, string ids"
Found = dict[str, float]


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    releases = {name: reference(of, num_users=options.rows, num_items=options.rows) for name, of in SETUPS.items()}
    bench = Bench(cores, options.seconds, options.candidates)
    with redis_server() as redis:
        fill_redis(releases["Redis"], redis.url)

        def stores(name: str) -> dict[str, Found]:
            return bench.measure(releases[name], name, {cores.server}, redis_url=redis.url)

        by_store = in_rounds(list(SETUPS), stores, options.rounds)

    def workers(number: str) -> dict[str, Found]:
        used = {cores.server} if number == "1" else {cores.server, cores.generator}
        return bench.measure(releases["local"], "local", used, workers=int(number))

    def engines(engine: str) -> dict[str, Found]:
        chosen: EngineChoice = "native" if engine == "native" else "onnx"
        return bench.measure(releases[_BY_ENGINE], _BY_ENGINE, {cores.server}, engine=chosen)

    by_engine = in_rounds(list(ENGINES), engines, options.rounds)
    by_workers = in_rounds([str(number) for number in WORKERS], workers, options.rounds)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "seconds": options.seconds}
    settings |= {"rounds": options.rounds, "server_core": cores.server, "generator_core": cores.generator}
    figures = settings | {"stores": by_store, "engines": by_engine, "workers": by_workers}
    write_result("throughput", figures, "numpy", "onnxruntime", "uvicorn", "redis", "hiredis")


class Bench:
    """How every run is made."""

    def __init__(self, cores: Cores, seconds: int, num_candidates: int) -> None:
        self._cores, self._seconds, self._num_candidates = cores, seconds, num_candidates

    def measure(
        self,
        release: Release,
        name: str,
        used: set[int],
        *,
        redis_url: str | None = None,
        workers: int = 1,
        engine: EngineChoice = "auto",
    ) -> dict[str, Found]:
        """Figures by the number of connections, of one service that is started for it on the cores ``used``."""
        bodies = random_requests(release.folder, num_candidates=self._num_candidates, num_bodies=400).bodies
        setup = SETUPS[name]
        with running(release, setup, used, redis_url=redis_url, workers=workers, engine=engine) as service:
            self._load(service, bodies, 4, 1)
            return {str(number): self._load(service, bodies, number, self._seconds) for number in CONNECTIONS}

    def _load(self, service: Running, bodies: list[bytes], connections: int, seconds: int) -> Found:
        cpu_before, generator_before = service.cpu_s(), _generator_cpu_s()
        result = load.closed_loop(
            service.address, bodies, connections=connections, seconds=seconds, cores={self._cores.generator}
        )
        if result.errors:
            raise RuntimeError(f"{service.address}: {result.errors} requests failed")
        found = load.figures(result)
        requests = result.requests_per_s * seconds
        found["server_cpu_us"] = round((service.cpu_s() - cpu_before) / requests * 1e6, 1)
        found["generator_cpu_us"] = round((_generator_cpu_s() - generator_before) / requests * 1e6, 1)
        return found


def in_rounds(names: list[str], measure: Callable[[str], dict[str, Found]], rounds: int) -> dict[str, dict[str, Found]]:
    """Medians over the rounds; in each round all names have their turn."""
    runs: dict[str, list[dict[str, Found]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            say(f"round {number + 1} of {rounds}: {name}")
            runs[name].append(measure(name))
    return {name: {key: _medians([run[key] for run in found]) for key in found[0]} for name, found in runs.items()}


def _medians(runs: list[Found]) -> Found:
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def _generator_cpu_s() -> float:
    """Processor seconds of the children that have ended: the generators, not the service that still runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
