"""Latency of ``/v1/score`` with 1,000 candidates against the offered load, open loop, local store and Redis.

Run: ``python benchmarks/latency_by_load.py``. Needs wrk, a redis-server and two cores; the service has one, the
generators and Redis have the other. First a closed loop finds the saturation rate, then shares of it are offered, at
even distances and, of the local store, at random times too. The result goes to
``benchmarks/results/latency_by_load-<date>.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import load
from redis_run import fill_redis, redis_server
from result_file import write_result
from service_run import SETUPS, Cores, Release, add_core_options, reference, running, say, take_cores

from offline.bench.requests import random_requests

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
NAMES = ("local", "Redis")
_OPEN_CONNECTIONS = 64


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    release = reference(SETUPS["local"], num_users=options.rows, num_items=options.rows)
    bodies = random_requests(release.folder, num_candidates=options.candidates, num_bodies=400).bodies
    with redis_server() as redis:
        fill_redis(release, redis.url)
        figures = {name: _measure(name, release, cores, redis.url, (bodies, options.seconds)) for name in NAMES}
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "seconds": options.seconds}
    settings |= {"server_core": cores.server, "generator_core": cores.generator}
    figures = settings | {"stores": figures}
    write_result("latency_by_load", figures, "numpy", "onnxruntime", "uvicorn", "redis", "hiredis")


def _measure(
    name: str, release: Release, cores: Cores, redis_url: str, requests: tuple[list[bytes], int]
) -> dict[str, Any]:
    """The saturation rate, and latencies by the share of it that was offered."""
    bodies, seconds = requests
    with running(release, SETUPS[name], {cores.server}, redis_url=redis_url) as service:
        saturated = load.saturation(service.address, bodies, seconds=seconds, cores={cores.generator})
        say(f"{name}: saturated at {saturated.requests_per_s:.0f} requests/s")
        rate = saturated.requests_per_s
        ways: dict[str, list[float | load.PoissonRate]] = {"even": [share * rate for share in SHARES]}
        if name == "local":
            ways["random"] = [load.PoissonRate(share * rate) for share in SHARES]
        found: dict[str, Any] = {"saturation": load.figures(saturated)}
        for way, rates in ways.items():
            found[way] = {}
            for share, offered in zip(SHARES, rates, strict=True):
                say(f"{name}: {share:.0%} of it, {way}")
                result = load.open_loop(
                    service.address,
                    bodies,
                    rate=offered,
                    seconds=seconds,
                    connections=_OPEN_CONNECTIONS,
                    cores={cores.generator},
                )
                found[way][f"{share:g}"] = load.figures(result)
    return found


if __name__ == "__main__":
    main()
