"""How hard each loss pulls at the scores: the weights at which Tables 3 and 4 compare losses and not their scales.

Run: ``python benchmarks/loss_scales.py --data PREPARED --teacher FOLDER --run RUN`` of an experiment on RankTower. Of
a trained model's lists, the norm of the gradient of each loss by a list's scores, mean over the lists. A ranking loss
that replaces the hybrid's two gets the weight at which its gradient is as long as theirs together; a distillation loss
the one at which it is as long as the softmax's at its weight.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from result_file import write_result

from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import FullStageSampler
from ranktower.losses import HybridOptions, hybrid_loss
from ranktower.losses.hybrid import Coarse, Distillation
from ranktower.training.loop import DeviceFeatures, encode_lists
from ranktower.training.run import load_run
from ranktower.training.teacher_folder import with_teacher
from ranktower.training.tensors import side_features

BATCHES = 8


def main() -> None:
    """Measure and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--teacher", "--run"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    dataset = with_teacher(PreparedDataset.load(options.data), options.teacher)
    run = load_run(options.run)
    sampler = FullStageSampler(dataset, run.config.sampling, np.load(run.folder.candidates, mmap_mode="r"))
    features = DeviceFeatures(side_features(dataset.users.features), side_features(dataset.items.features))
    batches = []
    for batch in islice(sampler.epoch(0, run.config.batch_lists), BATCHES):
        with torch.no_grad():
            lists = encode_lists(run.model, features, batch)
            scores = run.model.score_pairs(lists.users, lists.item_lists())
        told = {"teacher_scores": torch.from_numpy(batch.teacher_scores), "stage": lists.stage, "mask": lists.mask}
        batches.append((scores, lists.labels, told))
    write_result("loss_scales", weights(batches, run.config.loss), "torch")


def weights(batches: list[Any], loss: HybridOptions) -> dict[str, Any]:
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
    norms = {name: mean_norm(batches, options) for name, options in (alone | taught).items() if name != "softmax"}
    norms |= {
        "softmax": mean_norm(batches, alone["softmax"]),
        "distillation softmax": mean_norm(batches, taught["softmax"]),
    }
    return {
        "gradient_norms": {"hybrid ranking": ranking, "hybrid distillation": distilling, **norms},
        "ranking_weights": {name: ranking / norms[name] for name in alone},
        "distillation_weights": {
            name: distilling / norms["distillation softmax" if name == "softmax" else name] for name in taught
        },
    }


def mean_norm(batches: list[Any], options: HybridOptions) -> float:
    """Mean over the lists of the norm of a list's gradient; the loss is a mean over B lists, so it is taken B times."""
    norms = []
    for scores, labels, told in batches:
        given = scores.clone().requires_grad_()
        hybrid_loss(given, labels, options=options, **told).backward()  # type: ignore[no-untyped-call]
        norms.append(given.grad.norm(dim=1) * len(given))
    return float(torch.cat(norms).mean())


if __name__ == "__main__":
    main()
