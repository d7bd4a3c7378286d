"""The directions that a distillation loss is held against, where they can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distillation_directions
import loss_scales
import numpy as np
import pytest
import torch
from torch import Tensor

from ranktower.data.dataset import PreparedDataset
from ranktower.losses import HybridOptions
from ranktower.training.run import load_run

IMPRESSION, RANDOM = 0, 2
NAN = float("nan")


def _found(*lists: tuple[list[float], list[float]]) -> dict[str, Any]:
    """Of lists of scores and soft labels of impressions; behind them a random item and a masked one, to be left out."""
    scores = torch.tensor([[*of, 9.0, NAN] for of, _ in lists])
    stage = torch.tensor([[IMPRESSION] * (scores.shape[1] - 2) + [RANDOM, IMPRESSION]] * len(lists))
    told: dict[str, Tensor] = {
        "teacher_scores": torch.tensor([[*teacher, NAN, 0.5] for _, teacher in lists]),
        "stage": stage,
        "mask": torch.arange(scores.shape[1]).expand_as(stage) < scores.shape[1] - 1,
    }
    return distillation_directions.directions([(scores, torch.zeros(scores.shape), told)], HybridOptions())


def test_scores_that_know_nothing_of_the_teacher() -> None:
    """They are orthogonal to the soft labels, so both directions are there to be told apart.

    The softmax over the impressions is (e, 1, 1, e) / (2e + 2); the way down is p less its sum times that.
    """
    p, z = np.array([0.2, 0.2, 0.6, 0.6]), np.array([1.0, -1.0, -1.0, 1.0]) / 2
    found = _found((z.tolist(), p.tolist()))
    down = p - p.sum() * np.exp(z) / np.exp(z).sum()
    order, less_spread = (p - p.mean()), -z
    softmax = found["directions"]["softmax"]
    assert softmax["up"] == pytest.approx(0.0, abs=1e-6)
    assert softmax["teachers_order"] == pytest.approx(down @ order / np.linalg.norm(down) / np.linalg.norm(order))
    assert softmax["less_spread"] == pytest.approx(down @ less_spread / np.linalg.norm(down) / np.linalg.norm(z))
    assert found["directions"]["pairwise_logloss"]["teachers_order"] > 0.9
    assert found["directions"]["weighted_logloss"]["up"] < 0
    lists = {"count": 1, "deviation_of_soft_labels": 0.2, "deviation_of_scores": 0.5, "correlation": 0.0}
    assert found["lists"] == {name: pytest.approx(value, abs=1e-6) for name, value in lists.items()}


def test_lists_without_two_different_scores_and_labels_do_not_count() -> None:
    one = ([0.5, -0.5, -0.5, 0.5], [0.2, 0.2, 0.6, 0.6])
    flat, equal, untaught = ([1.0] * 4, one[1]), (one[0], [0.4] * 4), (one[0], [NAN] * 4)
    alone, among = _found(one), _found(flat, one, equal, untaught)
    assert among["lists"]["count"] == 1
    for loss, of in alone["directions"].items():
        assert among["directions"][loss] == {name: pytest.approx(value, abs=1e-6) for name, value in of.items()}


def test_the_lists_of_a_run(simulated: PreparedDataset, trained_run: Path) -> None:
    run = load_run(trained_run)
    lists = loss_scales.scored_lists(run, simulated, np.load(run.folder.candidates))
    found = distillation_directions.directions(lists, run.config.loss)
    assert found["directions"].keys() == {"softmax", "weighted_logloss", "pairwise_logloss"}
    assert all(-1 <= cosine <= 1 for of in found["directions"].values() for cosine in of.values())
    assert 0 < found["lists"]["count"] <= sum(len(scores) for scores, _, _ in lists)
