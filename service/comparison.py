"""How far two releases' scores of one request's candidates are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranktower.metrics import overlap_at_k

MAX_OVERLAP_K = 100


@dataclass(frozen=True)
class Comparison:
    """Of one request."""

    overlap: float | None
    """Part of the first k candidates that both rankings share, see ``overlap_at_k``. k is ``MAX_OVERLAP_K``, or half of
    the candidates that have a score, for all of them would be shared by any two rankings. None for one candidate."""
    rank_correlation: float | None
    """Spearman's, equal scores sharing their mean rank; None where all scores of one side are equal."""
    mean_difference: float
    mean_absolute_difference: float


def compare(served: NDArray[np.float32], other: NDArray[np.float32]) -> Comparison | None:
    """Compare scores ``[N]``, NaN where a candidate has none; None if no candidate has both.

    A candidate that only one side could score counts in the overlap, and in nothing else.
    """
    both = np.isfinite(served) & np.isfinite(other)
    if not both.any():
        return None
    first, second = served[both].astype(np.float64), other[both].astype(np.float64)
    difference = second - first
    return Comparison(
        _overlap(served, other),
        _rank_correlation(first, second),
        mean_difference=float(difference.mean()),
        mean_absolute_difference=float(np.abs(difference).mean()),
    )


def _overlap(served: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    mask = np.isfinite(served) | np.isfinite(other)
    k = min(MAX_OVERLAP_K, int(mask.sum()) // 2)
    return float(overlap_at_k(served[None], other[None], mask=mask[None], k=k)[0]) if k else None


def _rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    ranks = [_mean_ranks(scores) for scores in (first, second)]
    deviations = [rank - rank.mean() for rank in ranks]
    norms = [float(np.sqrt(deviation @ deviation)) for deviation in deviations]
    if not all(norms):
        return None
    # Rounding may lead beyond 1, where a histogram has no bucket for it.
    return float(np.clip(deviations[0] @ deviations[1] / (norms[0] * norms[1]), -1.0, 1.0))


def _mean_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
