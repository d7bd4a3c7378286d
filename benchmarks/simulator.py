"""How long the cascade simulator takes for a million interactions, written Parquet included.

Run: ``python benchmarks/simulator.py`` (on one core: ``taskset -c 0 python benchmarks/simulator.py``). The result goes
to ``benchmarks/results/simulator-<date>.json``, one entry a number of cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.data.tables import write_tables

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    options = SimulatorOptions(num_users=arguments.users, num_items=arguments.items)
    runs = [_run(options) for _ in range(arguments.repeats)]
    num_cores = len(os.sched_getaffinity(0))
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": _machine(),
        "num_cores": num_cores,
        "options": {"num_users": options.num_users, "num_items": options.num_items, "seed": options.seed},
        "num_interactions": runs[0]["num_interactions"],
        "runs": runs,
        "median_total_s": statistics.median(run["simulate_s"] + run["write_s"] for run in runs),
    }
    result["interactions_per_s"] = round(result["num_interactions"] / result["median_total_s"])
    path = RESULTS / f"simulator-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.json"
    _add(path, f"{num_cores} cores", result)
    sys.stdout.write(
        f"{result['num_interactions']:,} interactions in {result['median_total_s']:.2f} s on {num_cores} cores "
        f"({result['interactions_per_s']:,} a second), median of {len(runs)}; {path}\n"
    )
    return 0


def _run(options: SimulatorOptions) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tables = simulate(options).tables
        simulated = time.perf_counter()
        write_tables(Path(folder) / "tables", tables)
        written = time.perf_counter()
        return {
            "num_interactions": tables.interactions.height,
            "simulate_s": round(simulated - started, 3),
            "write_s": round(written - simulated, 3),
        }


def _machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "polars": pl.__version__,
    }


def _add(path: Path, key: str, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[key] = result
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
