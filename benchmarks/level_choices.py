"""What the ladder's similarities and its mixed scores were chosen among: quality of each on validation users.

Run: ``python benchmarks/level_choices.py`` after a demo. Users and candidates are those of ``ranktower calibrate``:
maps are fitted on half of the users, and everything is measured on the other half, against labels and full scoring.
The result goes to ``benchmarks/results/level_choices-<date>.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from result_file import write_result
from torch import Tensor

from model_export.calibrate import CalibrateOptions, draw_candidates
from model_export.calibration import QUALITY, ScoredList, fit_calibration, quality
from model_export.parity import level_scores
from ranktower.blocks.maximum_similarity import unit_length
from ranktower.data.dataset import PreparedDataset
from ranktower.ladder import mix
from ranktower.models import RankTower
from ranktower.training.evaluation import ModelScorer
from ranktower.training.run import load_run

Scores = NDArray[np.float32]
# Multi-embeddings [1, Hu, D] and [N, Hi, D] to scores [N].
Similarity = Callable[[RankTower, Tensor, Tensor], Tensor]
MAXSIM = "maxsim behind LayerNorm (kept)"
SIMILARITIES: dict[str, Similarity] = {
    MAXSIM: lambda model, user, items: level_scores(model, "maxsim", user, items),
    "maxsim of the stored embeddings": lambda model, user, items: model.similarity(user, items),
    "pooled: the user's cosines to the item's sum (kept)": lambda model, user, items: level_scores(
        model, "pooled", user, items
    ),
    "pooled: cosine of the sums": lambda _, user, items: unit_length(items.sum(1)) @ user.sum(1)[0],
    "pooled: product of the sums": lambda _, user, items: items.sum(1) @ user.sum(1)[0],
    "pooled: mean of all cosines, as in the retrieval index": lambda _, user, items: (
        unit_length(items).sum(1) @ unit_length(user).sum(1)[0]
    ),
}


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo/kuairand"), help="what a demo made of one log")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = CalibrateOptions()
    run_folder = max(options.work.glob("run-*"), key=lambda path: path.stat().st_mtime)
    run, dataset = load_run(run_folder), PreparedDataset.load(options.work / "prepared")
    scorer = ModelScorer.encode(run.model, dataset)
    lists: dict[str, list[ScoredList]] = {name: [] for name in SIMILARITIES}
    for one in draw_candidates(run, dataset, chosen):
        user, items = scorer.user(one.user_row)[0], scorer.items[0][torch.from_numpy(one.item_rows)]
        full = scorer(one.user_row, one.item_rows)
        for name, similarity in SIMILARITIES.items():
            with torch.inference_mode():
                scores = similarity(run.model, user, items).numpy()
            lists[name].append(ScoredList(one.labels, full, scores, scores))
    measured = lists[MAXSIM][1::2]
    figures = {"full": _quality(measured, [one.full for one in measured])}
    figures |= {name: _quality(scored[1::2], [one.maxsim for one in scored[1::2]]) for name, scored in lists.items()}
    write_result(
        "level_choices",
        {"data": options.work.name, **asdict(chosen), "levels": figures, "mixed": _mixed(lists[MAXSIM], chosen.shares)},
        "numpy",
        "torch",
    )


def _mixed(lists: Sequence[ScoredList], shares: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Answers of which a share is scored in full: calibrated scores as they are, or moved to the user's own level."""
    calibration = fit_calibration(
        *(np.concatenate([getattr(one, of) for one in lists[::2]]) for of in ("maxsim", "full"))
    )
    figures: dict[str, dict[str, Any]] = {}
    for share in shares:
        as_they_are, moved = [], []
        for one in lists[1::2]:
            calibrated = calibration.apply(one.maxsim)
            best = np.argsort(-one.maxsim, kind="stable")[: round(share * len(calibrated))]
            moved.append(mix(one.full, calibrated, best))
            calibrated[best] = one.full[best]
            as_they_are.append(calibrated)
        figures[f"{share:g} in full"] = {
            "the others calibrated": _quality(lists[1::2], as_they_are),
            "the others calibrated and moved (kept)": _quality(lists[1::2], moved),
        }
    return figures


def _quality(lists: Sequence[ScoredList], scores: Sequence[Scores]) -> dict[str, float]:
    k = CalibrateOptions().k
    means = np.mean([quality(one, given, k) for one, given in zip(lists, scores, strict=True)], axis=0)
    return {name: round(float(mean), 4) for name, mean in zip(QUALITY, means, strict=True)}


if __name__ == "__main__":
    main()
