"""What each distillation loss asks of the scores.

Run: ``python benchmarks/distillation_directions.py`` after the runs of Table 4. On the lists of a RankTower trained
without distillation: the cosine between the way down of each loss, seen from a list's scores of impressions, and two
directions: the teacher's order (soft labels less their mean), and less spread (scores less their mean, reversed).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from loss_scales import WORK, Scored, scored_lists
from result_file import write_result
from torch import Tensor

from ranktower.data.dataset import PreparedDataset
from ranktower.losses import HybridOptions, hybrid_loss
from ranktower.losses.hybrid import Distillation
from ranktower.training.run import load_run
from ranktower.training.teacher_folder import with_teacher


def main() -> None:
    """Measure and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="the experiment's folder of one data set")
    work = parser.parse_args().work
    runs, teachers = sorted(work.glob("runs/distil-none-seed*/model.safetensors")), sorted(work.glob("teacher-*/"))
    if not runs or not teachers:
        sys.stdout.write(f"{work}: no run without distillation yet; run 'ranktower experiment --table 4' first\n")
        return
    run = load_run(runs[0].parent)
    dataset = with_teacher(PreparedDataset.load(work / "prepared"), teachers[-1])
    lists = scored_lists(run, dataset, np.load(run.folder.candidates, mmap_mode="r"))
    write_result("distillation_directions", directions(lists, run.config.loss), "torch")


def directions(batches: list[Scored], loss: HybridOptions) -> dict[str, Any]:
    """The cosines by loss, and how far a list's soft labels lie apart."""
    found: dict[str, Any] = {}
    for name in get_args(Distillation):
        options = replace(loss, fine_weight=0.0, coarse_weight=0.0, distillation_weight=1.0, distillation=name)
        pairs = torch.cat([_cosines(batch, options) for batch in batches])
        found[name] = {"teachers_order": float(pairs[:, 0].mean()), "less_spread": float(pairs[:, 1].mean())}
    taught = [
        labels[mask]
        for _, _, told in batches
        for labels, mask in zip(told["teacher_scores"], _taught(told), strict=True)
    ]
    spread = {"mean": float(torch.stack([p.mean() for p in taught]).mean())}
    spread["deviation"] = float(torch.stack([p.std(correction=0) for p in taught]).mean())
    return {"directions": found, "soft_labels": spread}


def _taught(told: dict[str, Tensor]) -> Tensor:
    """Where a list has soft labels, bool ``[B, L]``."""
    return told["mask"] & (told["stage"] == 0) & ~told["teacher_scores"].isnan()


def _cosines(batch: Scored, options: HybridOptions) -> Tensor:
    """Of every list with the two directions, ``[B, 2]``."""
    scores, labels, told = batch
    given = scores.clone().requires_grad_()
    hybrid_loss(given, labels, options=options, **told).backward()
    taught = _taught(told)
    down = torch.where(taught, -given.grad, 0.0)
    toward = [_centred(told["teacher_scores"].nan_to_num(), taught), -_centred(scores, taught)]
    return torch.stack([torch.cosine_similarity(down, one) for one in toward], dim=1)


def _centred(values: Tensor, kept: Tensor) -> Tensor:
    """Less the mean of those kept, 0 elsewhere."""
    values = torch.where(kept, values, 0.0)
    return torch.where(kept, values - values.sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True), 0.0)


if __name__ == "__main__":
    main()
