from __future__ import annotations

import numpy as np
import pytest

from ranktower.errors import ConfigError
from ranktower.training.classification_metrics import log_loss
from ranktower.training.teacher_weights import fit_weights


def members(seed: int, num_members: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Members that see the truth through noise of their own, and labels drawn from the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n)
    noise = generator.normal(size=(num_members, n)) * np.linspace(0.5, 2, num_members)[:, None]
    labels = generator.random(n) < 1 / (1 + np.exp(-truth))
    return (1 / (1 + np.exp(-(truth + noise)))).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(3))
def test_no_grid_point_of_the_simplex_is_better(seed: int) -> None:
    probabilities, labels = members(seed, 3)
    weights = fit_weights(probabilities, labels)
    least = log_loss(weights @ probabilities, labels)
    grid = np.linspace(0, 1, 41)
    for first in grid:
        for second in grid[grid <= 1 - first + 1e-9]:
            point = np.array([first, second, 1 - first - second])
            assert log_loss(point @ probabilities, labels) >= least - 1e-9


@pytest.mark.parametrize("num_members", [2, 4, 6])
def test_the_optimality_conditions_hold(num_members: int) -> None:
    """On the simplex, the mean of q_m / mixture is 1 for every member that counts and at most 1 for the others."""
    probabilities, labels = members(7, num_members)
    weights = fit_weights(probabilities, labels)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    of_truth = np.where(labels, probabilities, 1 - probabilities.astype(float))
    pull = (of_truth / (weights @ of_truth)).mean(axis=1)
    np.testing.assert_allclose(pull[weights > 0], 1, atol=1e-4)
    assert pull.max() <= 1 + 1e-4


def test_a_member_that_only_harms_gets_nothing() -> None:
    labels = np.arange(20) % 3 == 0
    certain = np.stack([np.where(labels, 0.99, 0.01), np.where(labels, 0.01, 0.99)])
    assert fit_weights(certain, labels).tolist() == [1.0, 0.0]


def test_without_labels_all_weigh_the_same() -> None:
    assert fit_weights(np.empty((4, 0), np.float32), np.empty(0, bool)).tolist() == [0.25] * 4
    assert fit_weights(np.full((1, 3), 0.4), np.array([True, False, True])).tolist() == [1.0]


def test_probabilities_that_are_no_numbers_have_no_weights() -> None:
    labels = np.arange(20) % 3 == 0
    with pytest.raises(ConfigError, match=r"members: no weights of least log loss were found on validation \(.+\)"):
        fit_weights(np.full((2, 20), np.nan), labels)
