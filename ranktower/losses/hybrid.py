"""The hybrid ranking loss: distillation, fine-grained and coarse-grained ranking, each on its own stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses import am_rankmax, softsort, weighted
from ranktower.losses.am_rankmax import am_rankmax_loss
from ranktower.losses.approx_ndcg import approx_ndcg_loss
from ranktower.losses.distillation import distillation_loss
from ranktower.losses.lists import check_lists
from ranktower.losses.pairwise import pairwise_logloss
from ranktower.losses.protocol import ListLoss
from ranktower.losses.rankmax import rankmax_loss
from ranktower.losses.ranknet import ranknet_loss
from ranktower.losses.softmax import softmax_loss
from ranktower.losses.softsort import softsort_loss
from ranktower.losses.weighted import weighted_logloss

# Indices into the STAGES of ranktower.data.tables, which would bring polars into the losses; a test compares the two.
IMPRESSION, RANKING_CANDIDATE, PRERANKING_CANDIDATE, RANDOM = range(4)

Distillation = Literal["softmax", "weighted_logloss", "pairwise_logloss"]
Coarse = Literal["am_rankmax", "rankmax", "softmax", "approx_ndcg", "ranknet"]


@dataclass(frozen=True)
class HybridOptions:
    """Weights and options of ``hybrid_loss``; the defaults are the paper's loss, the names the losses' own options.

    A weight of 0 leaves its part out (it is not computed). ``distillation`` and ``coarse`` name the loss of the first
    and the third part, for the alternatives of Tables 3 and 4: ``coarse="ranknet", fine_weight=0`` ranks by RankNet
    alone.

    Raises:
        ConfigError: an option that its loss would refuse, or a weight that is negative or infinite.
    """

    distillation_weight: float = 1.0
    fine_weight: float = 1.0
    coarse_weight: float = 1.0
    distillation: Distillation = "softmax"
    coarse: Coarse = "am_rankmax"
    normalize_teacher: bool = False
    positive_weight: float = 1.0
    softsort_power: float = 2.0
    label_tau: float = 1.0
    score_tau: float = 1.0
    alpha: float = 2.0
    beta: float | None = None
    margin_power: float = 1.0

    def __post_init__(self) -> None:
        for name in ("distillation_weight", "fine_weight", "coarse_weight"):
            if not 0 <= (weight := getattr(self, name)) < float("inf"):
                raise ConfigError(f"hybrid loss {name} must be finite and not negative, got {weight}")
        for name, choices in (("distillation", get_args(Distillation)), ("coarse", get_args(Coarse))):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"hybrid loss {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        am_rankmax.check_options(self.alpha, self.beta, self.margin_power)
        softsort.check_options(self.softsort_power, self.label_tau, self.score_tau)
        weighted.check_options(self.positive_weight)


@dataclass(frozen=True)
class HybridParts:
    """Scalars: the three parts before weighting, 0 for one that is left out, and ``total``, their weighted sum."""

    total: Tensor
    distillation: Tensor
    fine: Tensor
    coarse: Tensor


PAPER_LOSS = HybridOptions()


def hybrid_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    teacher_scores: Tensor,
    stage: Tensor,
    options: HybridOptions = PAPER_LOSS,
) -> Tensor:
    """Equation (20): the weighted sum of ``hybrid_parts``, which see for the arguments; a scalar."""
    return hybrid_parts(scores, labels, mask=mask, teacher_scores=teacher_scores, stage=stage, options=options).total


def hybrid_parts(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    teacher_scores: Tensor,
    stage: Tensor,
    options: HybridOptions = PAPER_LOSS,
) -> HybridParts:
    """Equation (20) with its three parts, each the mean over the lists that count for it.

    - distillation (14) of ``teacher_scores`` [B, L], on the impressions that have one (NaN = none);
    - fine, SoftSort (16) of ``labels`` [B, L], on impressions and ranking and pre-ranking candidates;
    - coarse, AM-Rankmax (19) of ``labels``, on all stages.

    ``stage`` [B, L], of an integer dtype, holds 0 impression, 1 ranking candidate, 2 pre-ranking candidate, 3 random;
    what it holds in a masked place does not matter. ``scores``, ``labels`` and ``mask`` are as in ``ListLoss``.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or ``stage`` is not of an integer dtype.
    """
    check_lists(scores, labels, mask)
    if stage.shape != scores.shape or stage.is_floating_point() or stage.dtype == torch.bool:
        found = f"stage is {stage.dtype} {list(stage.shape)}, scores are {list(scores.shape)}"
        raise ValueError(f"stage must be of an integer dtype and of the scores' shape: {found}")
    absent = scores.new_zeros(())
    distillation = fine = coarse = absent
    if options.distillation_weight:
        taught = mask & (stage == IMPRESSION) & ~teacher_scores.isnan()
        distillation = _distillation(options)(scores, teacher_scores, mask=taught)
    if options.fine_weight:
        fine = _fine(options)(scores, labels, mask=mask & (stage != RANDOM))
    if options.coarse_weight:
        coarse = _coarse(options)(scores, labels, mask=mask)
    total = options.distillation_weight * distillation + options.fine_weight * fine + options.coarse_weight * coarse
    return HybridParts(total=total, distillation=distillation, fine=fine, coarse=coarse)


def _distillation(options: HybridOptions) -> ListLoss:
    losses: dict[Distillation, ListLoss] = {
        "softmax": partial(distillation_loss, normalize=options.normalize_teacher),
        "weighted_logloss": partial(weighted_logloss, positive_weight=options.positive_weight),
        "pairwise_logloss": pairwise_logloss,
    }
    return losses[options.distillation]


def _fine(options: HybridOptions) -> ListLoss:
    return partial(
        softsort_loss, power=options.softsort_power, label_tau=options.label_tau, score_tau=options.score_tau
    )


def _coarse(options: HybridOptions) -> ListLoss:
    losses: dict[Coarse, ListLoss] = {
        "am_rankmax": partial(am_rankmax_loss, alpha=options.alpha, beta=options.beta, power=options.margin_power),
        "rankmax": rankmax_loss,
        "softmax": softmax_loss,
        "approx_ndcg": approx_ndcg_loss,
        "ranknet": ranknet_loss,
    }
    return losses[options.coarse]
