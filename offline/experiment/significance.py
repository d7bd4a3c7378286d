"""Paired tests over users, corrected for their number, and an interval over users and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from offline.experiment.protocol import SignificanceOptions

_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A model minus another, over the same users.

    Attributes:
        mean: of the users' differences.
        relative: ``mean`` to the other's mean; None where that is 0.
        over_users: 95 % confidence interval of the mean, by Student's t.
        over_both: the same by a bootstrap over users and seeds.
        p_t: two-sided p of the paired t-test.
        p_wilcoxon: two-sided p of Wilcoxon's signed-rank test.
    """

    mean: float
    relative: float | None
    over_users: tuple[float, float]
    over_both: tuple[float, float]
    p_t: float
    p_wilcoxon: float


def difference(values: NDArray[np.float64], others: NDArray[np.float64], options: SignificanceOptions) -> Difference:
    """Compare two models by a figure ``[num_seeds, num_users]`` of each; the tests take its mean over the seeds.

    Where all users differ by the same there is no variance to test against: p is 1 if that is nothing, else 0.

    Raises:
        ValueError: the two are not of the same seeds and users.
    """
    if values.shape != others.shape:
        raise ValueError(f"the models were tested on {values.shape} and {others.shape} seeds and users")
    by_user = (values - others).mean(axis=0)
    mean, beside = float(by_user.mean()), float(others.mean())
    relative, over_both = mean / beside if beside else None, bootstrap(values - others, options)
    if np.ptp(by_user) == 0:
        same = 1.0 if mean == 0 else 0.0
        return Difference(mean, relative, (mean, mean), over_both, same, same)
    tested = stats.ttest_1samp(by_user, 0.0)
    low, high = tested.confidence_interval(_LEVEL)
    ranked = stats.wilcoxon(by_user, method="approx")
    over_users = float(low), float(high)
    return Difference(mean, relative, over_users, over_both, float(tested.pvalue), float(ranked.pvalue))


def bootstrap(differences: NDArray[np.float64], options: SignificanceOptions) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``[num_seeds, num_users]``, both axes drawn anew (Owen 2007).

    Few seeds say little about their own spread, so with three of them it still is rather narrow.
    """
    generator = np.random.default_rng(options.seed)
    num_seeds, num_users = differences.shape
    means = np.empty(options.num_draws)
    for draw in range(options.num_draws):
        by_user = differences[generator.integers(num_seeds, size=num_seeds)].mean(axis=0)
        means[draw] = by_user[generator.integers(num_users, size=num_users)].mean()
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same with each p corrected for the number of comparisons (Holm 1979)."""
    p_t = holm([of.p_t for of in differences.values()])
    p_wilcoxon = holm([of.p_wilcoxon for of in differences.values()])
    return {
        name: replace(of, p_t=t, p_wilcoxon=w)
        for (name, of), t, w in zip(differences.items(), p_t, p_wilcoxon, strict=True)
    }


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p: the i-th smallest of n times n - i + 1, at most 1, and no smaller than those before it."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted.tolist()
