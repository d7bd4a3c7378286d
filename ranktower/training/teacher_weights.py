"""The members' weights in the teacher's ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ranktower.errors import ConfigError
from ranktower.training.classification_metrics import probability_of_truth


def fit_weights(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights of least log loss of the weighted mean of probabilities, not negative and 1 in sum.

    The log loss of a mixture is convex in its weights, so what is found is the minimum of all.

    Args:
        probabilities: ``[M, n]`` of M members, inside (0, 1) or close to it.
        labels: ``[n]``; where n is 0 all members weigh the same.

    Raises:
        ConfigError: the solver does not arrive at the minimum.
    """
    num_members = len(probabilities)
    start = np.full(num_members, 1 / num_members)
    if num_members == 1 or not len(labels):
        return start
    of_truth = probability_of_truth(probabilities, labels)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed = weights @ of_truth
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
    if not found.success:
        raise ConfigError(f"members: no weights of least log loss were found on validation ({found.message})")
    # The solver leaves specks of 1e-16 where the minimum has 0.
    weights = np.where(found.x > 1e-9, found.x, 0.0)
    fitted: NDArray[np.float64] = weights / weights.sum()
    return fitted
