"""Whether a model's probabilities are what they say: reliability of sigmoid(score), raw and after Platt scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from offline.experiment.protocol import CalibrationOptions
from ranktower.data.dataset import PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.training.evaluation import SPLITS, Scorer

Floats = NDArray[np.float64]


def calibration(scorer: Scorer, dataset: PreparedDataset, options: CalibrationOptions) -> dict[str, Any]:
    """Reliability of the probability of feedback on test impressions, raw and with a Platt scaling of validation's.

    Null where a split has impressions of one kind only, positive or not.
    """
    scores, positive = impression_scores(scorer, dataset, "test", num_users=options.num_users)
    fitted_on = impression_scores(scorer, dataset, "validation", num_users=options.num_users)
    if not all(0 < labels.mean() < 1 for labels in (positive, fitted_on[1]) if len(labels)) or not len(fitted_on[1]):
        return {"raw": None, "platt": None}
    slope, offset = platt(*fitted_on)
    return {
        "num_impressions": len(scores),
        "positive_rate": round(float(positive.mean()), 6),
        "raw": reliability(expit(scores), positive, num_bins=options.num_bins),
        "platt": {
            "slope": round(slope, 6),
            "offset": round(offset, 6),
            **reliability(expit(slope * scores + offset), positive, num_bins=options.num_bins),
        },
    }


def impression_scores(
    scorer: Scorer, dataset: PreparedDataset, split: str, *, num_users: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of the impressions that some users have in a split, and whether each has positive feedback."""
    interactions = dataset.interactions
    here = np.flatnonzero((interactions.split == SPLITS[split]) & (interactions.stage == STAGES.index("impression")))
    users = np.unique(interactions.user_row[here])
    users = np.sort(np.random.default_rng(0).permutation(users)[:num_users])
    starts, ends = (np.searchsorted(interactions.user_row[here], users, side=side) for side in ("left", "right"))
    rows = [here[start:end] for start, end in zip(starts, ends, strict=True)]
    scored = [scorer(user, interactions.item_row[own]) for user, own in zip(users.tolist(), rows, strict=True)]
    taken = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    return np.concatenate([np.zeros(0), *scored]), interactions.feedback[taken] > 0


def platt(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the logit with the least log loss (Platt 1999, without his smoothing of the labels)."""
    center, scale = scores.mean(), scores.std() or 1.0
    standard = (scores - center) / scale

    def loss(values: Floats) -> tuple[float, Floats]:
        logits = values[0] * standard + values[1]
        error = expit(logits) - positive
        value = np.logaddexp(0, logits).mean() - logits[positive].sum() / len(logits)
        return float(value), np.array([(error * standard).mean(), error.mean()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(slope / scale), float(offset - slope * center / scale)


def reliability(probabilities: Floats, positive: NDArray[np.bool_], *, num_bins: int) -> dict[str, Any]:
    """Bins of equal size by probability, with the mean probability and the share of positives of each.

    ``ece``, the expected calibration error, is the mean over all impressions of the difference of the two in their bin
    (Naeini et al. 2015, with bins of equal size instead of width).
    """
    parts = [part for part in np.array_split(np.argsort(probabilities, kind="stable"), num_bins) if len(part)]
    predicted = np.array([probabilities[part].mean() for part in parts])
    observed = np.array([positive[part].mean() for part in parts])
    sizes = np.array([len(part) for part in parts])
    return {
        "ece": round(float(np.average(np.abs(predicted - observed), weights=sizes)), 6),
        "predicted": predicted.round(6).tolist(),
        "observed": observed.round(6).tolist(),
    }
