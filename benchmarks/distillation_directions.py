"""What each distillation loss asks of the scores.

Run: ``python benchmarks/distillation_directions.py`` after the runs of Table 4. On training lists as a RankTower scores
them that was trained without distillation (whole histories, no dropout): the cosine between the way down of each loss,
seen from a list's scores of impressions, and three directions. One is up, for all impressions alike. One is the
teacher's order: the soft labels less their mean, and less what of them the scores have already. The third is less
spread: the scores less their mean, reversed, and less what of them the soft labels explain. Lists with two different
soft labels and two different scores count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, get_args

import torch
from loss_scales import Scored, gradient, trained_lists
from result_file import write_result
from torch import Tensor

from ranktower.losses import HybridOptions
from ranktower.losses.hybrid import Distillation


def main() -> None:
    """Measure and write one result."""
    found = trained_lists(__doc__, row="distil-none", table=4)
    if found is not None:
        run, dataset, lists = found
        measured_on = {"run": run.folder.path.name, "teacher_id": dataset.teacher_id}
        write_result("distillation_directions", measured_on | directions(lists, run.config.loss), "torch")


def directions(batches: list[Scored], loss: HybridOptions) -> dict[str, Any]:
    """Means over lists: the cosines by loss, and what the lists are like.

    Returns:
        ``directions``: by loss, ``up``, ``teachers_order`` and ``less_spread``. ``lists``: how many counted, the means
        of the soft labels' and of the scores' standard deviations within a list, and of the correlation between them.
    """
    kept = [_Impressions.of(batch) for batch in batches]
    found = {}
    for name in get_args(Distillation):
        options = replace(loss, fine_weight=0.0, coarse_weight=0.0, distillation_weight=1.0, distillation=name)
        down = [torch.where(of.taught, -gradient(batch, options), 0.0) for of, batch in zip(kept, batches, strict=True)]
        found[name] = {
            "up": _mean(of.cosine(way, of.taught.float()) for of, way in zip(kept, down, strict=True)),
            "teachers_order": _mean(of.cosine(way, of.order) for of, way in zip(kept, down, strict=True)),
            "less_spread": _mean(of.cosine(way, of.less_spread) for of, way in zip(kept, down, strict=True)),
        }
    about = {
        "count": sum(int(of.counted.sum()) for of in kept),
        "deviation_of_soft_labels": _mean(of.deviation(of.labels) for of in kept),
        "deviation_of_scores": _mean(of.deviation(of.scores) for of in kept),
        "correlation": _mean(of.cosine(of.labels, of.scores) for of in kept),
    }
    return {"directions": found, "lists": about}


@dataclass(frozen=True)
class _Impressions:
    """What the lists of a batch hold of impressions with a soft label; 0 elsewhere.

    Attributes:
        taught: where those are, bool ``[B, L]``.
        labels, scores: centred over them, ``[B, L]``.
        counted: lists in which both differ, bool ``[B]``.
    """

    taught: Tensor
    labels: Tensor
    scores: Tensor
    counted: Tensor

    @classmethod
    def of(cls, batch: Scored) -> Self:
        scores, _, told = batch
        taught = told["mask"] & (told["stage"] == 0) & ~told["teacher_scores"].isnan()
        centred = [_centred(values, taught) for values in (told["teacher_scores"], scores)]
        differ = [values.abs().amax(dim=1) > 1e-6 for values in centred]
        return cls(taught, *centred, differ[0] & differ[1])

    @property
    def order(self) -> Tensor:
        return _without(self.labels, self.scores)

    @property
    def less_spread(self) -> Tensor:
        return -_without(self.scores, self.labels)

    def cosine(self, one: Tensor, other: Tensor) -> Tensor:
        """Of each list that counts."""
        return torch.cosine_similarity(one, other, dim=1)[self.counted]

    def deviation(self, centred: Tensor) -> Tensor:
        """Standard deviation of each list that counts."""
        return (centred.square().sum(dim=1) / self.taught.sum(dim=1)).sqrt()[self.counted]


def _centred(values: Tensor, kept: Tensor) -> Tensor:
    """Less the mean of those kept, 0 elsewhere."""
    values = torch.where(kept, values, 0.0)
    mean = values.sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(kept, values - mean, 0.0)


def _without(one: Tensor, other: Tensor) -> Tensor:
    """What of one does not lie along the other."""
    share = (one * other).sum(dim=1, keepdim=True) / other.square().sum(dim=1, keepdim=True).clamp(min=1e-12)
    return one - share * other


def _mean(parts: Iterable[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


if __name__ == "__main__":
    main()
