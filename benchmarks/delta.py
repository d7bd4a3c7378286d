"""From ``ranktower precompute --delta`` to an answer with the new items in it, on a service that goes on serving.

Run: ``python benchmarks/delta.py``. Needs a redis-server and two cores. A table of new items is put in front of the
reference release, again and again, each time with others: locally, and in Redis. Measured are the command as a whole,
and the seconds from its start and from its end to the first answer in which none of them is missing. The result goes to
``benchmarks/results/delta-<date>.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from numpy.typing import NDArray
from redis_run import fill_redis, redis_server
from reference_release import MODEL, build_reference_release
from result_file import write_result
from service_run import BUILD, SETUPS, Release, add_core_options, open_reference, running, say, take_cores

NAMES = ("local", "Redis")
_FIRST_ID = 1 << 41  # behind all ids of the reference release
_SAMPLE = 100  # of the new items asked for
_POLL_S = 0.05
_TIMEOUT_S = 120.0


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--new", type=int, nargs="+", default=[10, 1000, 10_000], help="items of a delta")
    parser.add_argument("--repeats", type=int, default=5)
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    BUILD.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=BUILD) as folder, redis_server() as redis:
        say("building the release")
        build_reference_release(Path(folder), num_users=options.rows, num_items=options.rows)
        release = open_reference(Path(folder))
        fill_redis(release, redis.url)
        first_id = _FIRST_ID
        for name in NAMES:
            with (
                running(release, SETUPS[name], {cores.server}, redis_url=redis.url) as service,
                httpx.Client(base_url=service.address) as client,
            ):
                figures[name] = {}
                for num_new in options.new:
                    say(f"{name}: {num_new} new items")
                    runs = []
                    for _ in range(options.repeats):
                        ids = np.arange(first_id, first_id + num_new)
                        first_id += num_new
                        runs.append(measure(release, client, ids, redis.url if name == "Redis" else None))
                    figures[name][str(num_new)] = spread(runs)
    settings = {"num_rows": options.rows, "repeats": options.repeats, "poll_ms": 500}
    write_result("delta", settings | {"stores": figures}, "numpy", "onnxruntime", "polars", "redis")


def measure(release: Release, client: httpx.Client, ids: NDArray[np.int64], redis_url: str | None) -> dict[str, float]:
    """Seconds of one delta with new items, beside the service that ``client`` asks."""
    table = release.root / "new_items.parquet"
    pl.DataFrame({"item_id": ids, "group": [str(one % 100) for one in ids.tolist()]}).write_parquet(table)
    asked = ids[:: max(1, len(ids) // _SAMPLE)].tolist()
    started = time.monotonic()
    ended = served = 0.0
    with _start(release, table, redis_url) as process:
        while not (ended and served):
            now = time.monotonic()
            if not ended and process.poll() is not None:
                ended = now
                if process.returncode:
                    raise RuntimeError(f"precompute --delta ended with status {process.returncode}")
            if not served and not _missing(client, asked):
                served = now
            if now - started > _TIMEOUT_S:
                raise RuntimeError(f"{len(ids)} new items: not served within {_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
    return {"command_s": ended - started, "start_to_served_s": served - started, "end_to_served_s": served - ended}


def _start(release: Release, table: Path, redis_url: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ranktower.cli", "precompute", "--delta", "--registry", str(release.root)]
    command += ["--model", MODEL, "--items", str(table)]
    env = dict(os.environ)
    if redis_url is not None:
        command += ["--store", "redis"]
        env["RANKTOWER_STORE__REDIS_URL"] = redis_url
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def _missing(client: httpx.Client, ids: Sequence[int]) -> list[int]:
    answer = client.post("/v1/score", json={"user_id": 0, "candidate_ids": list(ids)})
    answer.raise_for_status()
    missing: list[int] = answer.json()["missing"]
    return missing


def spread(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and longest of the runs, by what was measured."""
    found = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        found[key] = {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}
    return found


if __name__ == "__main__":
    main()
