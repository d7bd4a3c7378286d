"""The plots of the page, as SVG on white so that they are legible on a dark page; equal results give equal files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from offline.experiment.page_parts import RowResults
from offline.experiment.sections import cost_of

_NDCG = ("metrics", "full_corpus", "ndcg")


def draw_quality_by_cost(groups: Mapping[str, Sequence[RowResults]], cost: dict[str, Any] | None, path: Path) -> bool:
    """NDCG against microseconds a candidate, each group in a colour; returns whether there was anything to draw."""
    points = {
        label: [(cost_of(cost, of).get("us"), of.mean(*_NDCG), of.row.title) for of in rows]
        for label, rows in groups.items()
    }
    drawn = {label: [point for point in of if None not in point] for label, of in points.items()}
    if not any(drawn.values()) or cost is None:
        return False
    with _figure_file(path, width=8, height=4.5) as figure:
        axes = figure.subplots()
        for label, of in drawn.items():
            if of:
                us, ndcg, titles = zip(*of, strict=True)
                times = np.array(us) / cost["options"]["num_candidates"]
                axes.scatter(times, ndcg, label=label)
                for x, y, title in zip(times, ndcg, titles, strict=True):
                    axes.annotate(title, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
        axes.set(xscale="log", xlabel="µs a candidate, one thread", ylabel="NDCG, full corpus")
        axes.margins(x=0.15)
        axes.legend(frameon=False)
    return True


def draw_calibration(rows: Sequence[RowResults], path: Path) -> bool:
    """Share of positives against the probability, of each model's first seed; returns whether there was any."""
    chosen = [(of.row.title, next(iter(of.by_seed.values()))["calibration"]) for of in rows if of.by_seed]
    chosen = [(title, found) for title, found in chosen if found["raw"] is not None]
    if not chosen:
        return False
    with _figure_file(path, width=9, height=4.2) as figure:
        for axes, kind, title in zip(
            figure.subplots(1, 2), ("raw", "platt"), ("sigmoid(score)", "after Platt scaling"), strict=True
        ):
            axes.plot([0, 1], [0, 1], color="#9a9a9a", linewidth=0.8)
            for name, found in chosen:
                axes.plot(found[kind]["predicted"], found[kind]["observed"], marker="o", markersize=3, label=name)
            axes.set(title=title, xlabel="probability", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False)
    return True


def draw_learning_curve(rows: Sequence[RowResults], path: Path) -> bool:
    """NDCG against the share of the users; returns whether there was anything to draw."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for of in rows:
        if (ndcg := of.mean(*_NDCG)) is not None:
            curves.setdefault(of.row.title, []).append((100 * of.train_users, ndcg))
    if not curves:
        return False
    with _figure_file(path, width=7, height=3.8) as figure:
        axes = figure.subplots()
        for title, points in curves.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=title)
        axes.set(xscale="log", xlabel="% of the users trained on", ylabel="NDCG, full corpus")
        axes.legend(frameon=False)
    return True


@contextmanager
def _figure_file(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written when it is drawn, aside and renamed."""
    with mpl.rc_context(
        {"svg.hashsalt": path.stem, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        yield figure
        aside = path.with_name(f".{path.name}.part")
        figure.savefig(aside, format="svg", facecolor="white", metadata={"Date": None})
        aside.replace(path)
