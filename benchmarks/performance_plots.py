"""The plots of docs/performance.md, as SVG on white so that they are legible on a dark page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PARTS: dict[str, tuple[str, str]] = {
    "framework": ("framework", "#9a9a9a"),
    "parse": ("parse and validate", "#9ecae1"),
    "fetch": ("look ids up (in Redis: wait for rows)", "#fdae6b"),
    "score": ("read rows and score", "#1f6fb4"),
    "serialize": ("serialize", "#74c476"),
}
_COLOURS = {"local": "#1f6fb4", "Redis": "#c0392b"}


def draw_stages(result: dict[str, Any], path: Path) -> None:
    """Stages of a request by store, and their shares by the number of candidates."""
    with figure_file(path, width=11, height=4) as figure:
        left, right = figure.subplots(1, 2)
        stores = {name: parts_us(of["1000"]) for name, of in result["stages"].items()}
        _stacked(left, {name: {part: us / 1e3 for part, us in parts.items()} for name, parts in stores.items()})
        left.set_xlabel("ms a request, 1,000 candidates")
        local = {f"{int(size):,}": parts_us(of) for size, of in result["stages"]["local"].items()}
        _stacked(right, {size: {part: us / sum(of.values()) for part, us in of.items()} for size, of in local.items()})
        right.set_xlabel("share, by the number of candidates, local store")
        right.set_xlim(0, 1)
        handles, labels = [], []
        for axes in (left, right):
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles.append(handle)
                    labels.append(label)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def parts_us(found: dict[str, float]) -> dict[str, float]:
    """Microseconds of a request by part."""
    return {part: max(found[f"{part}_us"], 0.0) for part in _PARTS}


def draw_graph(variants: dict[str, Any], path: Path) -> None:
    """The variants of the graph and their times."""
    found = variants["variants"]
    with figure_file(path, width=9, height=1 + 0.35 * len(found)) as figure:
        axes = figure.subplots()
        colours = ["#1f6fb4" if name.endswith("(kept)") else "#9a9a9a" for name in found]
        bars = axes.barh(list(found), [of["median_us"] / 1e3 for of in found.values()], color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.margins(x=0.1)
        axes.invert_yaxis()
        axes.set_xlabel(f"ms, {variants['num_candidates']:,} candidates, one thread")


def draw_latency(result: dict[str, Any], path: Path) -> None:
    """Latency against the offered load, each store up to its saturation."""
    with figure_file(path, width=9, height=4) as figure:
        axes = figure.subplots()
        for name, of in result["stores"].items():
            points = list(of["even"].values())
            rates = [point["offered_per_s"] for point in points]
            for key, style in (("p50_ms", "-"), ("p99_ms", "--"), ("p999_ms", ":")):
                label = f"{name}, {key.removesuffix('_ms').replace('p999', 'p99.9')}"
                latencies = [point[key] for point in points]
                axes.plot(rates, latencies, style, marker="o", markersize=3, color=_COLOURS[name], label=label)
            axes.axvline(of["saturation"]["requests_per_s"], color=_COLOURS[name], linewidth=0.8, alpha=0.5)
        axes.set_yscale("log")
        axes.set_xlabel("requests/s offered at even distances (upright lines: saturation of a closed loop)")
        axes.set_ylabel("ms")
        axes.legend(frameon=False)


def draw_catalogue(result: dict[str, Any], path: Path) -> None:
    """Throughput against the number of items."""
    with figure_file(path, width=7, height=3.2) as figure:
        axes = figure.subplots()
        items = {int(size): of["requests_per_s"] for size, of in result["items"].items()}
        axes.plot(list(items), list(items.values()), marker="o", color="#1f6fb4")
        axes.set_xscale("log")
        axes.set_ylim(0, max(items.values()) * 1.15)
        axes.set_xlabel("items stored")
        axes.set_ylabel("requests/s")


def _stacked(axes: Axes, rows: dict[str, dict[str, float]]) -> None:
    """One bar a row, its parts beside each other."""
    for part, (label, colour) in _PARTS.items():
        chosen = [name for name, of in rows.items() if part in of]
        starts = [_before(rows[name], part) for name in chosen]
        axes.barh(chosen, [rows[name][part] for name in chosen], left=starts, color=colour, label=label)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()


def _before(parts: dict[str, float], part: str) -> float:
    names = list(parts)
    return sum(parts[name] for name in names[: names.index(part)])


@contextmanager
def figure_file(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written when it is drawn; the same result gives the same file."""
    style = {"svg.hashsalt": path.stem, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        yield figure
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


PLOTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "request_stages": draw_stages,
    "scorer_variants": draw_graph,
    "latency_by_load": draw_latency,
    "catalogue_growth": draw_catalogue,
}
"""By the name of the benchmark; the file is ``docs/images/<name>.svg``."""
