"""The result of ``run.py`` as Markdown and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = {
    "ours_float32": "RankTower, float32 rows",
    "ours_float16": "RankTower, float16 rows",
    "ours_native": "RankTower, float16 rows, native scorer",
    "ours_redis": "RankTower, float16 rows in Redis",
}
# In the order of the tables.
LABELS = {
    "plain_fastapi": "FastAPI",
    "bentoml": "BentoML",
    "litserve": "LitServe",
    "rayserve": "Ray Serve",
    **OURS,
}
_PERCENTILES = {"p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "p999_ms": "p99.9"}
_OURS_COLOUR, _PEER_COLOUR = "#1f6fb4", "#9a9a9a"
# From light to dark, legible in print.
_PERCENTILE_COLOURS = ("#9ecae1", "#4292c6", "#084594")


def markdown(result: dict[str, Any]) -> str:
    """Throughput, latency, agreement and the generators' own speed as Markdown tables.

    Args:
        result: of ``run.py``, with or without the date and the machine.
    """
    blocks = [_throughput(result), *(_latency(result, kind) for kind in result["latency"]), _agreement(result)]
    return "\n\n".join([*blocks, _generators(result)])


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw throughput beside the latency at the common rate, as SVG.

    Args:
        result: of ``run.py``.
        path: file to write.
    """
    names = _order(result)
    with mpl.rc_context({"svg.hashsalt": "peers", "font.size": 10}):
        figure = Figure(figsize=(11, 1.2 + 0.5 * len(names)), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_throughput(left, names, result)
        _draw_latency(right, names, result["latency"]["common"])
        # Without a date the same result gives the same file.
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _order(result: dict[str, Any]) -> list[str]:
    return [name for name in LABELS if name in result["throughput"]]


def _label(result: dict[str, Any], name: str) -> str:
    pinned = result["peer_versions"].get(name)
    return f"{LABELS[name]} {pinned.partition('==')[2]}" if pinned else LABELS[name]


def _throughput(result: dict[str, Any]) -> str:
    ours = list(result["ratios"])
    head = ["server", "requests/s", "connections", *(f"{LABELS[name]} to it" for name in ours)]
    lines = [_row(head), _row(["---"] * len(head))]
    for name in _order(result):
        found = result["throughput"][name]
        ratios = [f"{result['ratios'][our][name]:.1f}×" if name in result["ratios"][our] else "" for our in ours]
        lines.append(_row([_label(result, name), f"{found['requests_per_s']:.0f}", f"{found['connections']}", *ratios]))
    return "\n".join(lines)


def _latency(result: dict[str, Any], kind: str) -> str:
    title = {
        "half": "Open loop, each at half of its own saturation rate:",
        "common": "Open loop, all at one rate that the slowest of the peers (Ray Serve apart) holds:",
    }[kind]
    lines = [title, "", _row(["server", "requests/s", *(f"{name} ms" for name in _PERCENTILES.values()), "errors"])]
    lines.append(_row(["---"] * (len(_PERCENTILES) + 3)))
    for name in _order(result):
        found = result["latency"][kind].get(name)
        if found is None:
            lines.append(_row([_label(result, name), "does not hold it", *[""] * (len(_PERCENTILES) + 1)]))
            continue
        times = [f"{found[key]:.2f}" for key in _PERCENTILES]
        errors = f"{found['non_200'] + found['failed']:.0f}"
        lines.append(_row([_label(result, name), f"{found['offered_per_s']:.0f}", *times, errors]))
    return "\n".join(lines)


def _agreement(result: dict[str, Any]) -> str:
    lines = ["| server | largest difference to torch's scores | allowed |", "|---|---|---|"]
    for name in _order(result):
        found = result["agreement"][name]
        lines.append(_row([_label(result, name), f"{found['max_abs_difference']:.1e}", f"{found['tolerance']:.0e}"]))
    return "\n".join(lines)


def _generators(result: dict[str, Any]) -> str:
    proof = result["generator"]
    text = f"Against a server that only echoes, the closed loop made {proof['closed']['requests_per_s']:.0f} requests/s"
    if not proof["open"]:
        return f"{text}."
    last = proof["open"][-1]
    held = f"the open loop held {last['offered_per_s']:.0f}/s and was {last['lag_p99_ms']:.2f} ms late at its p99"
    return f"{text}; {held}."


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _draw_throughput(axes: Axes, names: list[str], result: dict[str, Any]) -> None:
    rates = [result["throughput"][name]["requests_per_s"] for name in names]
    colours = [_OURS_COLOUR if name in OURS else _PEER_COLOUR for name in names]
    bars = axes.barh([_label(result, name) for name in names], rates, color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(f"requests/s with {result['num_candidates']:,} candidates, one core")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_latency(axes: Axes, names: list[str], found: dict[str, Any]) -> None:
    height = 0.8 / len(_PERCENTILE_COLOURS)
    for place, (key, colour) in enumerate(zip(_PERCENTILES, _PERCENTILE_COLOURS, strict=False)):
        rows = [row for row, name in enumerate(names) if name in found]
        times = [found[names[row]][key] for row in rows]
        centres = [row + (place - 1) * height for row in rows]
        axes.barh(centres, times, height, color=colour, label=_PERCENTILES[key])
    for row, name in enumerate(names):
        if name not in found:
            axes.text(0, row, " does not hold this rate", va="center", color="#555555")
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    rate = next(iter(found.values()))["offered_per_s"] if found else 0
    axes.set_xlabel(f"latency in ms at {rate:.0f} requests/s, open loop")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
