"""Calls timed in turns, so that their ratios hold on a machine with other work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

Calls = Mapping[str, Callable[[int], Any]]


def in_turns(calls: Calls, repeats: int, *, warmed: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Median and p99 in microseconds of each call, which is given the number of its turn.

    Args:
        calls: what to time, by name.
        repeats: turns; two more come first and do not count.
        warmed: names of the calls that run once unmeasured in each turn, so that the processor's caches hold their
            data and not that of the others.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, repeats):
        for name, call in calls.items():
            if name in warmed:
                call(max(turn, 0))
            start = time.perf_counter_ns()
            call(max(turn, 0))
            taken = time.perf_counter_ns() - start
            if turn >= 0:
                times[name].append(taken / 1e3)
    return {name: summary(values) for name, values in times.items()}


def summary(microseconds: list[float]) -> dict[str, float]:
    """Median and p99 of a list, to a tenth."""
    median, p99 = np.percentile(microseconds, [50, 99])
    return {"median_us": round(float(median), 1), "p99_us": round(float(p99), 1)}


def take_one_core() -> int:
    """Keep this process on the first core that it may use; gives that core."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core
