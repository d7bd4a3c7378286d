"""The plots of the page, as SVG on white so that they are legible on a dark page; equal results give equal files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from offline.experiment.page_parts import RowResults
from offline.experiment.sections import cost_of

_NDCG = ("metrics", "full_corpus", "ndcg")
# Part of the best NDCG from which on a model is drawn.
_NEAR = 0.95


def draw_quality_by_cost(groups: Mapping[str, Sequence[RowResults]], cost: dict[str, Any] | None, path: Path) -> bool:
    """NDCG against microseconds a candidate, each group in a colour; returns whether there was anything to draw.

    What is far behind the best is named above the axes and not drawn, so that the others can be told apart.
    """
    points = [] if cost is None else _points(groups, cost)
    if not points:
        return False
    lowest = _NEAR * max(of.ndcg for of in points)
    with _figure_file(path, width=9, height=5.2) as figure:
        axes = figure.subplots()
        for number, label in enumerate(groups):
            near = [of for of in points if of.group == label and of.ndcg >= lowest]
            axes.scatter([of.us for of in near], [of.ndcg for of in near], label=label)
            # The first group's names rise from their points and the others' fall, for groups share points.
            up, anchor = (1, "bottom") if number == 0 else (-1, "top")
            for of in near:
                axes.annotate(
                    of.title,
                    (of.us, of.ndcg),
                    xytext=(3, 4 * up),
                    textcoords="offset points",
                    va=anchor,
                    rotation=35 * up,
                    rotation_mode="anchor",
                    fontsize=8,
                )
        below = ", ".join(f"{of.title} {of.ndcg:.3f}" for of in points if of.ndcg < lowest)
        axes.set(xscale="log", xlabel="µs a candidate, one thread", ylabel="NDCG, full corpus")
        axes.set_title(f"below: {below}" if below else "", loc="left", fontsize=8)
        axes.margins(x=0.12, y=0.3)
        axes.legend(frameon=False, loc="lower right")
    return True


class _Point(NamedTuple):
    group: str
    us: float
    ndcg: float
    title: str


def _points(groups: Mapping[str, Sequence[RowResults]], cost: dict[str, Any]) -> list[_Point]:
    """The rows that have both; microseconds a candidate."""
    found = []
    for label, rows in groups.items():
        for of in rows:
            us, ndcg = cost_of(cost, of).get("us"), of.mean(*_NDCG)
            if us is not None and ndcg is not None:
                found.append(_Point(label, us / cost["options"]["num_candidates"], ndcg, of.row.title))
    return found


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
        shares = sorted({share for points in curves.values() for share, _ in points})
        axes.set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
        axes.set_xticks([], minor=True)
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
