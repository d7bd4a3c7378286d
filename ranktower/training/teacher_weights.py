"""The members' weights in the teacher's ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize


def fit_weights(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights of least log loss of the weighted mean of probabilities, not negative and 1 in sum.

    The log loss of a mixture is convex in its weights, so what is found is the minimum of all.

    Args:
        probabilities: ``[M, n]`` of M members, inside (0, 1) or close to it.
        labels: ``[n]``; where n is 0 all members weigh the same.
    """
    num_members = len(probabilities)
    start = np.full(num_members, 1 / num_members)
    if num_members == 1 or not len(labels):
        return start
    # The probability that each member gave to what was the case.
    of_truth = np.where(labels, probabilities, 1 - probabilities.astype(np.float64)).clip(1e-7)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = (weights @ of_truth).clip(1e-7)
        return float(-np.log(mixed).mean()), -(of_truth / mixed).mean(axis=1)

    found = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * num_members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12},
    )
    # The solver leaves specks of 1e-16 where the minimum has 0.
    weights = np.where(found.x > 1e-9, found.x, 0.0)
    fitted: NDArray[np.float64] = weights / weights.sum()
    return fitted
