"""Fits the maps of the ladder's lower levels to the scale of full scoring, and measures every level. Arrays alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranktower.ladder import Calibration, LadderLevel, LevelName, mix
from ranktower.metrics import ndcg_at_k, recall_at_k

MAX_KNOTS = 64
QUALITY = ("ndcg", "recall", "ndcg_to_full", "recall_to_full")
"""Of a ``LadderLevel``."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class ScoredList:
    """One user's candidates: arrays ``[n]`` of labels and of the scores that each graph gives, not calibrated."""

    labels: NDArray[np.float32]
    full: Scores
    maxsim: Scores
    pooled: Scores


def build_ladder(lists: Sequence[ScoredList], *, k: int, shares: Sequence[float]) -> tuple[LadderLevel, ...]:
    """Every level, its calibration fitted on every other list and its quality measured on the rest.

    Args:
        lists: at least two, in no particular order; each of those measured has a positive label.
        k: cut-off of Recall and NDCG.
        shares: of ``full_best``, falling, each between 0 and 1.
    """
    fitted, measured = lists[::2], lists[1::2]
    full = np.concatenate([one.full for one in fitted])
    maxsim = fit_calibration(np.concatenate([one.maxsim for one in fitted]), full)
    pooled = fit_calibration(np.concatenate([one.pooled for one in fitted]), full)

    def measure(
        level: LevelName, share: float, score: Callable[[ScoredList], Scores], calibration: Calibration | None = None
    ) -> LadderLevel:
        scores = [score(one) for one in measured]
        means = np.mean([quality(one, given, k) for one, given in zip(measured, scores, strict=True)], axis=0)
        return LadderLevel(
            level=level,
            share=share,
            **dict(zip(QUALITY, means.tolist(), strict=True)),
            k=k,
            num_users=len(measured),
            num_candidates=round(np.mean([len(one.full) for one in measured])),
            calibration=calibration,
        )

    def best(share: float) -> Callable[[ScoredList], Scores]:
        return lambda one: _with_best_in_full(one, maxsim, share)

    return (
        measure("full", 1.0, lambda one: one.full),
        *(measure("full_best", share, best(share)) for share in shares),
        measure("maxsim", 0.0, lambda one: maxsim.apply(one.maxsim), maxsim),
        measure("pooled", 0.0, lambda one: pooled.apply(one.pooled), pooled),
    )


def fit_calibration(scores: Scores, full: Scores, *, max_knots: int = MAX_KNOTS) -> Calibration:
    """The increasing map from a level's scores ``[n]`` that best predicts full scores ``[n]`` of the same pairs.

    Centred isotonic regression (Oron and Flournoy 2017) over groups of equal size: neighbouring groups that do not
    increase are pooled, and the line goes through the pooled groups' means. So it has no flat part, which would make
    ties, and no jump.
    """
    order = np.argsort(scores, kind="stable")
    pooled: list[tuple[float, float, int]] = []  # mean score, mean full score, size
    for group in np.array_split(order, min(max_knots, len(order))):
        x, y, size = float(scores[group].mean(dtype=float)), float(full[group].mean(dtype=float)), len(group)
        while pooled and (pooled[-1][0] >= x or pooled[-1][1] >= y):
            other_x, other_y, other_size = pooled.pop()
            total = size + other_size
            x, y, size = (x * size + other_x * other_size) / total, (y * size + other_y * other_size) / total, total
        pooled.append((x, y, size))
    if len(pooled) == 1:  # the level says nothing about the full score: its order is kept, on next to no range
        ((x, y, _),) = pooled
        step = 1e-3 * max(float(full.std()), 1e-3)
        pooled = [(x - 1, y - step, 1), (x + 1, y + step, 1)]
    return Calibration(inputs=tuple(x for x, _, _ in pooled), outputs=tuple(y for _, y, _ in pooled))


def _with_best_in_full(one: ScoredList, calibration: Calibration, share: float) -> Scores:
    """The scores of an answer at level ``full_best``."""
    best = np.argsort(-one.maxsim, kind="stable")[: max(1, round(share * len(one.full)))]
    return mix(one.full, calibration.apply(one.maxsim), best)


def quality(one: ScoredList, scores: Scores, k: int) -> tuple[float, ...]:
    """What ``scores [n]`` of one list are worth, in the order of ``QUALITY``."""
    first = np.zeros(len(scores), dtype=np.float32)
    first[np.argsort(-one.full, kind="stable")[:k]] = 1
    mask = np.ones((1, len(scores)), dtype=np.bool_)
    return tuple(
        float(metric(scores[None], relevant[None], mask=mask, k=k)[0])
        for relevant in (one.labels, first)
        for metric in (ndcg_at_k, recall_at_k)
    )
