from __future__ import annotations

import math

import numpy as np
import pytest

from ranktower.training.classification_metrics import auc, log_loss


def test_auc_counts_the_pairs_in_order_and_ties_half() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.integers(0, 6, 40) / 6
    labels = generator.random(40) < 0.3
    wins = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in probabilities[labels]
        for negative in probabilities[~labels]
    ]
    assert auc(probabilities, labels) == pytest.approx(np.mean(wins))


def test_auc_at_its_ends() -> None:
    labels = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), labels) == 1
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), labels) == 0
    assert auc(np.full(4, 0.3), labels) == 0.5
    assert auc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_log_loss_is_the_mean_surprise() -> None:
    found = log_loss(np.array([0.9, 0.2], np.float32), np.array([True, False]))
    assert found == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2, rel=1e-6)
    assert math.isfinite(log_loss(np.array([0.0, 1.0], np.float32), np.array([True, False])))
    assert math.isnan(log_loss(np.array([np.nan, 1.0]), np.array([True, False])))
