"""What rendering ``/metrics`` costs the worker that answers, by the number of workers.

Run: ``python benchmarks/metrics_page.py``. Figures are CPU time of the rendering thread; every label is in use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import get_args

from result_file import write_result

from service.metrics import MULTIPROC_ENV, Metrics, Stage

ROOT = Path(__file__).parents[1]
REPEATS = 100
# In a worker: fill, say so, and stay until the input ends; or measure.
_FILL = "import sys, metrics_page; metrics_page.filled(); print(flush=True); sys.stdin.read()"
_MEASURE = "import metrics_page; print(metrics_page.measured())"


def main() -> int:
    """Write the result file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    figures = {"1": measured(), **{str(number): of_workers(number) for number in (2, 4, 8)}}
    write_result("metrics_page", {"cpu_ms_by_workers": figures}, "prometheus-client")
    return 0


def filled() -> Metrics:
    """Metrics with every label that a busy service has."""
    metrics = Metrics()
    outcomes = ("ok", "shed", "malformed", "deadline_exceeded", "store_unavailable")
    for endpoint, outcome in product(("score", "rank", "explain", "release"), outcomes):
        metrics.observe_request(endpoint, outcome, 0.003)
    for stage in get_args(Stage):
        metrics.observe_stage(stage, 0.001)
    for level, reason in product(("full_best", "maxsim", "pooled"), ("budget", "load", "overrun")):
        metrics.degraded.labels(level, reason).inc()
    for reason in ("queue_full", "no_time", "long_wait"):
        metrics.count_shed(reason, 0.0001)
    return metrics


def measured() -> float:
    """Median CPU time of one rendering on this thread, ms."""
    metrics, times = filled(), []
    for _ in range(REPEATS):
        began = time.thread_time()
        metrics.render()
        times.append(time.thread_time() - began)
    return round(1000 * median(times), 2)


def of_workers(num_workers: int) -> float:
    """``measured`` in one of so many processes that share a folder."""
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
        env = {**os.environ, MULTIPROC_ENV: folder, "PYTHONPATH": paths}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": env}
        others = [subprocess.Popen([sys.executable, "-c", _FILL], **pipes) for _ in range(num_workers - 1)]
        try:
            for other in others:
                other.stdout.readline()
            told = subprocess.run([sys.executable, "-c", _MEASURE], env=env, capture_output=True, text=True, check=True)
            return float(told.stdout)
        finally:
            for other in others:
                other.communicate()


if __name__ == "__main__":
    sys.exit(main())
