"""The files of ``ranktower bench``: the raw data as JSON, and the curve as a plot beside it."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offline.bench.answers import OpenResult, rounded
from offline.bench.verdict import Point, Question, best_point, verdict
from ranktower import __version__
from ranktower.embedding_store.durable import write_file

_SHARES: tuple[tuple[str, Callable[[OpenResult], int]], ...] = (
    ("inside the budget", lambda result: result.inside),
    ("degraded", lambda result: result.degraded),
    ("shed", lambda result: result.status_429),
)


def write_report(folder: Path, points: Sequence[Point], question: Question, about: Mapping[str, Any]) -> Path:
    """Write ``bench-<time>.json`` and ``.png`` into ``folder``; returns the path of the first.

    Args:
        folder: which exists.
        points: in the order in which they were measured; at least one.
        question: what was asked.
        about: where the figures come from, beside machine, date and version.
    """
    now = datetime.now(UTC)
    content = {
        "verdict": verdict(points, question),
        "date": now.isoformat(timespec="seconds"),
        "version": __version__,
        "machine": _machine(),
        **about,
        **asdict(question),
        "points": [_entry(point) for point in points],
    }
    path = folder / f"bench-{now:%Y%m%dT%H%M%SZ}.json"
    write_file(path, json.dumps(content, indent=2).encode() + b"\n")
    write_file(path.with_suffix(".png"), draw_curve(points, question))
    return path


def draw_curve(points: Sequence[Point], question: Question) -> bytes:
    """A PNG: latencies and shares against the offered rate. Of a rate offered twice, the later run is shown."""
    shown = sorted({point.rate: point for point in points}.values(), key=lambda point: point.rate)
    best = best_point(points)
    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw_latencies(upper, shown, question.budget_ms)
    _draw_shares(lower, shown)
    for axes in (upper, lower):
        if best is not None:
            axes.axvline(best.rate, color="grey", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(verdict(points, question), fontsize=10, wrap=True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _draw_latencies(axes: Axes, shown: Sequence[Point], budget_ms: float) -> None:
    latencies = {
        "p99": [point.result.p99_ms for point in shown],
        "p50": [point.result.p50_ms for point in shown],
    }
    # NaN, where nothing was answered, is not above 0. The limits are ours, for there may be nothing to take them from.
    heights = [budget_ms, *(value for values in latencies.values() for value in values if value > 0)]
    axes.set_ylim(min(heights) / 1.5, max(heights) * 1.5)
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")  # not 6 × 10⁰
    axes.set_ylabel("ms from the due time")
    for name, values in latencies.items():
        axes.plot([point.rate for point in shown], values, marker="o", markersize=3, label=name)
    axes.axhline(budget_ms, color="black", linestyle=":", label=f"budget, {budget_ms:g} ms")


def _draw_shares(axes: Axes, shown: Sequence[Point]) -> None:
    for name, count in _SHARES:
        shares = [100 * point.result.share(count(point.result)) for point in shown]
        axes.plot([point.rate for point in shown], shares, marker="o", markersize=3, label=name)
    axes.set_ylim(-2, 102)
    axes.set_ylabel("% of the requests")
    axes.set_xlabel("requests/s offered")


def _entry(point: Point) -> dict[str, Any]:
    about = {"rate_per_s": point.rate, "seconds": point.seconds, "is_quick": point.is_quick, "holds": point.holds}
    return about | rounded(asdict(point.result))


def _machine() -> dict[str, Any]:
    """Of the generator; the service may run elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return {
        "cpu": next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()),
        "num_cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
    }
