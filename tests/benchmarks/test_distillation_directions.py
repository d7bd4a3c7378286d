"""The directions that a distillation loss is held against, where they can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import distillation_directions
import loss_scales
import numpy as np
import pytest
import torch
from torch import Tensor

from ranktower.data.dataset import PreparedDataset
from ranktower.losses import HybridOptions
from ranktower.losses.hybrid import Distillation
from ranktower.training.run import load_run

IMPRESSION, RANDOM = 0, 2


def _found(scores: list[float], teacher: list[float], *, loss: Distillation = "softmax") -> dict[str, float]:
    """Of one list: impressions, then a random item without a soft label, whose score must not count."""
    stage = torch.tensor([[IMPRESSION] * len(scores) + [RANDOM]])
    told: dict[str, Tensor] = {
        "teacher_scores": torch.tensor([[*teacher, float("nan")]]),
        "stage": stage,
        "mask": torch.ones_like(stage, dtype=torch.bool),
    }
    lists = (torch.tensor([[*scores, 9.0]]), torch.zeros(stage.shape), told)
    found: dict[str, float] = distillation_directions.directions([lists], HybridOptions())["directions"][loss]
    return found


def test_the_softmax_of_equal_scores_goes_the_teachers_way() -> None:
    """There its gradient is the soft labels less their mean, reversed."""
    found = _found([1.0, 1.0, 1.0], [0.2, 0.9, 0.4])
    assert found == {"teachers_order": pytest.approx(1.0), "less_spread": pytest.approx(0.0)}


def test_the_softmax_of_far_scores_and_equal_labels_brings_them_together() -> None:
    found = _found([-1.0, 1.0], [0.5, 0.5])
    assert found == {"teachers_order": pytest.approx(0.0), "less_spread": pytest.approx(1.0)}


@pytest.mark.parametrize("loss", ["softmax", "weighted_logloss", "pairwise_logloss"])
def test_scores_in_the_opposite_order_are_turned(loss: Distillation) -> None:
    assert _found([1.0, -1.0], [0.1, 0.9], loss=loss)["teachers_order"] > 0.5


def test_the_lists_of_a_run(simulated: PreparedDataset, trained_run: Path) -> None:
    run = load_run(trained_run)
    lists = loss_scales.scored_lists(run, simulated, np.load(run.folder.candidates))
    found = distillation_directions.directions(lists, run.config.loss)
    assert found["directions"].keys() == {"softmax", "weighted_logloss", "pairwise_logloss"}
    assert all(-1 <= cosine <= 1 for of in found["directions"].values() for cosine in of.values())
    taught = simulated.interactions.teacher_scores
    assert np.nanmin(taught) <= found["soft_labels"]["mean"] <= np.nanmax(taught)
