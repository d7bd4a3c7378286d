"""Reliability and Platt scaling, from their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from offline.experiment.calibration import calibration, impression_scores, platt, reliability
from offline.experiment.protocol import CalibrationOptions
from ranktower.data.dataset import TEST, PreparedDataset


def test_bins_are_of_equal_size_in_the_order_of_the_probability() -> None:
    probabilities = np.array([0.9, 0.1, 0.8, 0.2, 0.3])
    positive = np.array([True, False, False, True, False])
    found = reliability(probabilities, positive, num_bins=2)
    assert found["predicted"] == pytest.approx([0.2, 0.85])
    assert found["observed"] == pytest.approx([1 / 3, 1 / 2], abs=1e-6)
    assert found["ece"] == pytest.approx((3 * abs(0.2 - 1 / 3) + 2 * 0.35) / 5, abs=1e-6)


def test_platt_finds_the_logit_that_made_the_labels() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(40, 8, 200_000)
    slope, offset = platt(scores, generator.random(len(scores)) < expit(0.25 * scores - 11))
    assert (slope, offset) == pytest.approx((0.25, -11), rel=0.03)


def test_platt_is_where_the_gradient_of_the_log_loss_is_zero() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(-3, 2, 500)
    positive = generator.random(500) < 0.3
    slope, offset = platt(scores, positive)
    error = expit(slope * scores + offset) - positive
    assert np.abs([error.mean(), (error * scores).mean()]).max() < 1e-4


def test_scores_belong_to_the_impressions_of_the_split(simulated: PreparedDataset) -> None:
    interactions = simulated.interactions
    scores, positive = impression_scores(lambda user, items: user * 1000.0 + items, simulated, "test", num_users=9999)
    test = (interactions.split == TEST) & (interactions.stage == 0)
    assert np.array_equal(scores, interactions.user_row[test] * 1000.0 + interactions.item_row[test])
    assert np.array_equal(positive, interactions.feedback[test] > 0)
    few, _ = impression_scores(lambda user, items: user * 1000.0 + items, simulated, "test", num_users=5)
    assert len(np.unique(few // 1000)) == 5


def test_a_scorer_that_knows_the_chance_is_calibrated(simulated: PreparedDataset) -> None:
    """It gives every impression the logit of the share of positives, so one number tells all of them."""
    found = calibration(lambda _, items: np.full(len(items), -1.0), simulated, CalibrationOptions(num_bins=3))
    rate = found["positive_rate"]
    assert found["raw"]["ece"] == pytest.approx(abs(expit(-1) - rate), abs=0.03)
    assert found["platt"]["ece"] < 0.05


def test_labels_of_one_kind_leave_nothing_to_say(simulated: PreparedDataset) -> None:
    none = np.zeros_like(simulated.interactions.feedback)
    dataset = replace(simulated, interactions=replace(simulated.interactions, feedback=none))
    found = calibration(lambda _, items: np.zeros(len(items)), dataset, CalibrationOptions())
    assert found == {"raw": None, "platt": None}
