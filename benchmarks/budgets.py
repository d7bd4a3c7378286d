"""Answers inside a budget of 5, 10 and 20 ms at 0.5 to 3 times the saturation rate, open loop, local store and Redis.

Run: ``python benchmarks/budgets.py``. Needs wrk, a redis-server and two cores; the service has one, the generators and
Redis have the other. A closed loop without budgets finds the saturation rate, at which everything is scored in full;
then shares of it are offered at random times, each request with its budget. Goodput is the number of answers with 200
inside the budget, a second. The result goes to ``benchmarks/results/budgets-<date>.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import load
from redis_run import fill_redis, redis_server
from result_file import write_result
from service_run import SETUPS, Cores, Release, Running, add_core_options, reference, running, say, take_cores

from offline.bench.answers import Answers, OpenResult
from offline.bench.offer import Phase, offer
from offline.bench.requests import random_requests

BUDGETS_MS = (5.0, 10.0, 20.0)
SHARES = (0.5, 0.9, 1.0, 1.5, 3.0)
NAMES = ("local", "Redis")
# More than are in flight at once within a budget, so that the service sees the overload and not the generator alone.
CONNECTIONS = 256


def main() -> None:
    """Measure, print and write one result."""
    options = add_load_options(argparse.ArgumentParser(description=__doc__)).parse_args()
    cores = take_cores(options)
    figures: dict[str, Any] = {}
    with services(options, cores) as started:
        for name, service in started:
            figures[name] = _measure(name, service, cores, options)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "seconds": options.seconds}
    settings |= {"server_core": cores.server, "generator_core": cores.generator}
    write_result("budgets", settings | {"stores": figures}, "numpy", "onnxruntime", "uvicorn", "redis", "hiredis")


def add_load_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Size of the release and the requests, length of a run, cores."""
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    add_core_options(parser)
    return parser


@contextmanager
def services(options: argparse.Namespace, cores: Cores) -> Iterator[Iterator[tuple[str, Running]]]:
    """The reference release on each store, one after the other, by the store's name."""
    release = reference(SETUPS["local"], num_users=options.rows, num_items=options.rows)
    with redis_server() as redis:
        fill_redis(release, redis.url)

        def start() -> Iterator[tuple[str, Running]]:
            for name in NAMES:
                with running(release, SETUPS[name], {cores.server}, redis_url=redis.url) as service:
                    yield name, service

        yield start()


def saturation_rate(name: str, service: Running, cores: Cores, options: argparse.Namespace) -> float:
    """Requests a second, all scored in full."""
    bodies = bodies_of(service.release, options.candidates, None)
    saturated = load.saturation(service.address, bodies, seconds=options.seconds, cores={cores.generator})
    if saturated.errors:
        raise RuntimeError(f"{name}: {saturated.errors} requests failed without a budget")
    say(f"{name}: saturated at {saturated.requests_per_s:.0f} requests/s")
    return saturated.requests_per_s


def bodies_of(release: Release, num_candidates: int, budget_ms: float | None) -> list[bytes]:
    """Random requests of the release's ids."""
    return random_requests(release.folder, num_candidates=num_candidates, budget_ms=budget_ms).bodies


def _measure(name: str, service: Running, cores: Cores, options: argparse.Namespace) -> dict[str, Any]:
    rate = saturation_rate(name, service, cores, options)
    found: dict[str, Any] = {"saturation_per_s": round(rate, 1), "budgets_ms": {}}
    for budget_ms in BUDGETS_MS:
        bodies = bodies_of(service.release, options.candidates, budget_ms)
        loads: dict[str, Any] = {}
        for number, share in enumerate(SHARES):
            say(f"{name}: {budget_ms:g} ms, {share:g} times saturation")
            phase = Phase(share * rate, options.seconds, poisson_seed=number)
            endpoint = load.endpoint(service.address)
            answers = offer(endpoint, bodies, [phase], connections=CONNECTIONS, cores={cores.generator})
            loads[f"{share:g}"] = budget_figures(answers, seconds=options.seconds, budget_ms=budget_ms)
        saturated, overloaded = (loads[share]["goodput_per_s"] for share in ("1", "3"))
        found["budgets_ms"][f"{budget_ms:g}"] = {
            "loads": loads,
            "goodput_3x_to_saturation": round(overloaded / saturated, 3) if saturated else None,
        }
    return found


def budget_figures(answers: Answers, *, seconds: float, budget_ms: float) -> dict[str, Any]:
    """A run's figures, and by what became of them the shares of all requests that were due.

    ``inside_share`` is ``full_inside_share`` and ``degraded_inside_share`` together; late are answers with 200, out of
    time those with 504.
    """
    inside, answered = answers.inside(budget_ms), answers.status == 200
    chosen = {
        "inside": inside,
        "full_inside": inside & ~answers.degraded,
        "degraded_inside": inside & answers.degraded,
        "late": answered & ~inside,
        "shed": answers.status == 429,
        "out_of_time": answers.status == 504,
    }
    shares = {f"{name}_share": round(float(of.mean()), 4) for name, of in chosen.items()}
    return shares | load.figures(OpenResult.of(answers, seconds=seconds, budget_ms=budget_ms))


if __name__ == "__main__":
    main()
