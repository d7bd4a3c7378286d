"""How hard each loss pulls at the scores: the weights at which Tables 3 and 4 compare losses and not their scales.

Run: ``python benchmarks/loss_scales.py`` after the runs of Table 1. Of a trained RankTower's lists, the norm of the
gradient of each loss by a list's scores, mean over the lists. A ranking loss that replaces the hybrid's two gets the
weight at which its gradient is as long as theirs together; a distillation loss the one at which it is as long as the
softmax's at its weight.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from result_file import write_result
from torch import Tensor

from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import FullStageSampler
from ranktower.losses import HybridOptions, hybrid_loss
from ranktower.losses.hybrid import Coarse, Distillation
from ranktower.training.loop import DeviceFeatures, encode_lists
from ranktower.training.run import TrainedRun, load_run
from ranktower.training.teacher_folder import with_teacher
from ranktower.training.tensors import side_features

WORK = Path("build/experiments/kuairand")
BATCHES = 8
# Scores and labels of a batch, [B, L] each, and what else ``hybrid_loss`` takes.
Scored = tuple[Tensor, Tensor, dict[str, Tensor]]


def main() -> None:
    """Measure and write one result."""
    found = trained_lists(__doc__, row="ranktower", table=1)
    if found is not None:
        run, _, lists = found
        write_result("loss_scales", weights(lists, run.config.loss), "torch")


def trained_lists(
    description: str | None, *, row: str, table: int
) -> tuple[TrainedRun, PreparedDataset, list[Scored]] | None:
    """The newest run of a table's row, its data and its lists; where there is none, that is said. Reads ``--work``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=WORK, help="the experiment's folder of one data set")
    work = parser.parse_args().work
    runs, teachers = sorted(work.glob(f"runs/{row}-seed*/model.safetensors")), sorted(work.glob("teacher-*/"))
    if not runs or not teachers:
        sys.stdout.write(
            f"{work}: no run of {row} or no teacher yet; run 'ranktower experiment --table {table}' first\n"
        )
        return None
    run = load_run(max(runs, key=lambda path: path.stat().st_mtime).parent)
    dataset = with_teacher(PreparedDataset.load(work / "prepared"), teachers[-1])
    return run, dataset, scored_lists(run, dataset, np.load(run.folder.candidates, mmap_mode="r"))


def scored_lists(run: TrainedRun, dataset: PreparedDataset, candidates: NDArray[np.int32]) -> list[Scored]:
    """Training lists of the run's kind with the scores of its model."""
    sampler = FullStageSampler(dataset, run.config.sampling, candidates)
    features = DeviceFeatures(side_features(dataset.users.features), side_features(dataset.items.features))
    scored = []
    for batch in islice(sampler.epoch(0, run.config.batch_lists), BATCHES):
        with torch.no_grad():
            lists = encode_lists(run.model, features, batch)
            scores = run.model.score_pairs(lists.users, lists.item_lists())
        told = {"teacher_scores": torch.from_numpy(batch.teacher_scores), "stage": lists.stage, "mask": lists.mask}
        scored.append((scores, lists.labels, told))
    return scored


def weights(batches: list[Scored], loss: HybridOptions) -> dict[str, Any]:
    """Gradient norms of all losses at weight 1, of the two references, and the weights that follow."""
    ranking = mean_norm(batches, replace(loss, distillation_weight=0.0))
    distilling = mean_norm(batches, replace(loss, fine_weight=0.0, coarse_weight=0.0))
    alone: dict[str, HybridOptions] = {
        "sorting": replace(loss, distillation_weight=0.0, fine_weight=1.0, coarse_weight=0.0)
    }
    for coarse in get_args(Coarse):
        alone[coarse] = replace(loss, distillation_weight=0.0, fine_weight=0.0, coarse_weight=1.0, coarse=coarse)
    taught = {
        name: replace(loss, distillation_weight=1.0, fine_weight=0.0, coarse_weight=0.0, distillation=name)
        for name in get_args(Distillation)
    }
    norms = {name: mean_norm(batches, options) for name, options in alone.items()}
    taught_norms = {name: mean_norm(batches, options) for name, options in taught.items()}
    return {
        "hybrid": {"ranking_norm": ranking, "distillation_norm": distilling},
        "ranking": {name: {"norm": norm, "weight": ranking / norm} for name, norm in norms.items()},
        "distillation": {name: {"norm": norm, "weight": distilling / norm} for name, norm in taught_norms.items()},
    }


def mean_norm(batches: list[Scored], options: HybridOptions) -> float:
    """Mean over the lists of the norm of a list's gradient."""
    return float(torch.cat([gradient(batch, options).norm(dim=1) for batch in batches]).mean())


def gradient(batch: Scored, options: HybridOptions) -> Tensor:
    """Of each list's loss by its scores, ``[B, L]``: the loss is a mean over B lists, so it is taken B times."""
    scores, labels, told = batch
    given = scores.clone().requires_grad_()
    hybrid_loss(given, labels, options=options, **told).backward()
    return given.grad * len(given)


if __name__ == "__main__":
    main()
