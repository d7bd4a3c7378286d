"""The learning curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

LOSS_PARTS = ("distillation", "fine", "coarse", "auxiliary")


def plot_curve(losses: Sequence[dict[str, float]], validations: Sequence[dict[str, float]], path: Path) -> None:
    """Loss parts on the left, validation Recall and NDCG on the right, against steps; written aside and renamed."""
    mpl.use("Agg")
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part in LOSS_PARTS:
        values = [row[part] for row in losses]
        if any(values):
            left.plot([row["step"] for row in losses], values, label=part)
    left.set(title="training loss, unweighted parts", xlabel="step", ylabel="loss a list", yscale="log")
    for metric in ("ndcg", "recall"):
        right.plot([row["step"] for row in validations], [row[metric] for row in validations], marker="o", label=metric)
    right.set(title="validation", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    figure.savefig(aside, dpi=110)
    aside.replace(path)
