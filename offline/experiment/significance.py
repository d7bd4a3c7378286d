"""Paired tests over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """A model minus another, over the same users.

    Attributes:
        mean: of the users' differences.
        low, high: 95 % confidence interval of the mean, by Student's t.
        p_t: two-sided p of the paired t-test.
        p_wilcoxon: two-sided p of Wilcoxon's signed-rank test.
    """

    mean: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float


def difference(values: NDArray[np.float64], others: NDArray[np.float64]) -> Difference:
    """Paired tests of a figure of every user (a mean over seeds) under two models.

    Where all users differ by the same there is no variance to test against: p is 1 if that is nothing, else 0.

    Raises:
        ValueError: the two are not of the same users.
    """
    if values.shape != others.shape:
        raise ValueError(f"the models were tested on {len(values)} and {len(others)} users")
    differences = values - others
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        same = 1.0 if mean == 0 else 0.0
        return Difference(mean, mean, mean, same, same)
    tested = stats.ttest_rel(values, others)
    interval = tested.confidence_interval(0.95)
    ranked = stats.wilcoxon(differences, method="approx")
    return Difference(mean, float(interval.low), float(interval.high), float(tested.pvalue), float(ranked.pvalue))
