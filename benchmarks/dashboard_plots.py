"""Draws the panels of the dashboard at their places, as Grafana would arrange them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

_COLUMN_IN, _ROW_IN = 0.75, 0.38
_PAGE_COLUMNS = 24
_COLOURS = {"green": "#3a9d5d", "yellow": "#e0b400", "orange": "#e67e22", "red": "#c0392b"}
_TITLE = {"fontsize": 9, "loc": "left", "fontweight": "bold"}


@dataclass(frozen=True)
class Answered:
    """A panel of the dashboard's JSON, and for each of its queries the series that Prometheus gave."""

    panel: dict[str, Any]
    found: list[list[dict[str, Any]]]

    @property
    def unit(self) -> str:
        """Grafana's name of it."""
        unit: str = self.panel["fieldConfig"]["defaults"]["unit"]
        return unit

    def series(self) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
        """Name, times in seconds and values of each series, in the order of the queries."""
        named = []
        for target, found in zip(self.panel["targets"], self.found, strict=True):
            for one in found:
                times, values = np.array(one["values"], dtype=float).T
                named.append((_name(target["legendFormat"], one["metric"]), times, values))
        return named


def draw_dashboard(answered: list[Answered], path: Path) -> None:
    """One PNG of all panels."""
    num_rows = max(one.panel["gridPos"]["y"] + one.panel["gridPos"]["h"] for one in answered)
    width, height = _PAGE_COLUMNS * _COLUMN_IN, num_rows * _ROW_IN
    with mpl.rc_context({"font.size": 7, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), facecolor="white")
        for one in answered:
            place = one.panel["gridPos"]
            left, top = place["x"] * _COLUMN_IN, height - place["y"] * _ROW_IN
            if one.panel["type"] == "row":
                figure.text(0.1 / width, (top - 0.28) / height, one.panel["title"], fontsize=13, fontweight="bold")
                continue
            inner = (place["w"] * _COLUMN_IN - 0.75, place["h"] * _ROW_IN - 0.75)
            box = (left + 0.55, top - place["h"] * _ROW_IN + 0.4, *inner)
            axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            axes.set_title(one.panel["title"], **_TITLE)
            if any(one.found):
                _DRAW[one.panel["type"]](axes, one)
            else:
                axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
        figure.savefig(path, format="png", dpi=90)


def _draw_lines(axes: Axes, one: Answered) -> None:
    series, stacking = one.series(), one.panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"]
    if stacking == "none":
        for name, times, values in series:
            axes.plot(times, values, label=name, linewidth=1)
    else:
        times, parts = _aligned(series)
        if stacking == "percent":
            parts = 100 * parts / np.maximum(parts.sum(axis=0), 1e-12)
        axes.stackplot(times, parts, labels=[name for name, _, _ in series], alpha=0.75)
    unit = "%" if stacking == "percent" else one.unit
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
    top = axes.get_ylim()[1]
    for step in one.panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
        if step["value"] <= top:
            axes.axhline(step["value"], color=_COLOURS[step["color"]], linewidth=0.8, linestyle="--")
    axes.legend(loc="upper left", fontsize=6, framealpha=0.6, ncols=1 + len(series) // 8)
    _time_axis(axes)


def _draw_heatmap(axes: Axes, one: Answered) -> None:
    edges = sorted((float(series["metric"]["le"]), series) for series in one.found[0])
    cumulated = _aligned([(str(edge), *np.array(found["values"], dtype=float).T) for edge, found in edges])
    times, counts = cumulated[0], np.diff(cumulated[1], axis=0, prepend=0.0)
    used = np.flatnonzero(counts.sum(axis=1) > 0)
    if not len(used):
        return
    shown = slice(used[0], used[-1] + 1)
    # The root, as the panel's own scale of colours has it: a few slow answers are to be seen too.
    axes.pcolormesh(times, np.arange(len(counts[shown])), np.sqrt(np.maximum(counts[shown], 0)), cmap="Blues")
    labels = [format_value(edge, one.unit) if np.isfinite(edge) else "more" for edge, _ in edges][shown]
    axes.set_yticks(np.arange(len(labels)), labels)
    _time_axis(axes)


def _draw_number(axes: Axes, one: Answered) -> None:
    axes.set_axis_off()
    value = float(one.found[0][0]["value"][1])
    steps = one.panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    colour = next(step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"])
    axes.add_patch(mpl.patches.Rectangle((0, 0), 1, 1, color=_COLOURS[colour], transform=axes.transAxes))
    text = f"{value:.3%}" if one.unit == "percentunit" else f"{value:g}"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=22, color="white", transform=axes.transAxes)


def _draw_table(axes: Axes, one: Answered) -> None:
    axes.set_axis_off()
    columns: dict[str, str] = one.panel["transformations"][-1]["options"]["renameByName"]
    rows: dict[str, dict[str, str]] = {}
    for target, found in zip(one.panel["targets"], one.found, strict=True):
        for number, series in enumerate(found):
            # Several queries are merged by replica; a single one has a row for each of its series.
            key = series["metric"]["instance"] if len(one.found) > 1 else str(number)
            value = f"{float(series['value'][1]):.0f}"
            rows.setdefault(key, {}).update(series["metric"] | {f"Value #{target['refId']}": value})
    cells = [[row.get(column, "") for column in columns] for row in rows.values()]
    table = axes.table(cells, colLabels=list(columns.values()), loc="upper left", cellLoc="left", edges="horizontal")
    table.auto_set_column_width(list(range(len(columns))))
    table.set_fontsize(7)


_DRAW = {"timeseries": _draw_lines, "heatmap": _draw_heatmap, "stat": _draw_number, "table": _draw_table}


def format_value(value: float, unit: str) -> str:
    """A value in its unit, short enough for an axis."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (1, "s"), (1e-3, "ms")):
            if abs(value) >= size:
                return f"{value / size:g} {name}"
        return f"{value * 1e6:g} µs" if value else "0"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    return f"{value:g}{' %' if unit == '%' else ''}"


def _name(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], found[1]), legend)


def _aligned(series: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All times ``[T]``, and the values at them ``[N, T]``; 0 where a series has none."""
    times = np.unique(np.concatenate([one[1] for one in series]))
    values = np.zeros((len(series), len(times)))
    for row, (_, at, found) in zip(values, series, strict=True):
        row[np.searchsorted(times, at)] = np.nan_to_num(found)
    return times, values


def _time_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at):%H:%M:%S}"))
