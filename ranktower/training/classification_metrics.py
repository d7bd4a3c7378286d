"""How well probabilities foretell a yes or no: area under the ROC curve and log loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Keeps the log loss finite where a probability is rounded to 0 or 1.
_LEAST = 1e-7


def auc(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> float | None:
    """How often a positive of ``[n]`` stands above a negative, ties counted half; None where one of them is missing."""
    num_positive = int(labels.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        return None
    _, places, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    # Equal values share the mean of their ranks, which count from 1.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[labels].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def log_loss(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> float:
    """Mean of ``-log`` of the probability given to what was the case, over ``[n]`` with n at least 1."""
    return float(-np.log(probability_of_truth(probabilities, labels)).mean())


def probability_of_truth(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What probabilities ``[..., n]`` of a yes gave to what was the case, ``labels [n]``; never 0."""
    of_truth: NDArray[np.float64] = np.where(labels, probabilities, 1 - probabilities.astype(np.float64))
    return of_truth.clip(_LEAST)
