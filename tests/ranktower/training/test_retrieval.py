from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.training.config import TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.retrieval import train_retrieval

CPU = torch.device("cpu")


def test_ranks_far_better_than_chance(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    config = small_config.retrieval.model_copy(update={"epochs": 15, "batch_pairs": 128, "learning_rate": 0.005})
    model = train_retrieval(simulated, config, seed=0, device=CPU, progress=False)
    result = evaluate(ModelScorer.encode(model, simulated), simulated, EvaluationOptions(k=20))
    chance = 20 / len(simulated.items)
    assert result.recall > 2 * chance


def test_the_same_seed_gives_the_same_weights(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    first, again = (
        train_retrieval(simulated, small_config.retrieval, seed=2, device=CPU, progress=False) for _ in range(2)
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_data_without_a_positive_is_refused(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    rows = simulated.interactions
    nothing = replace(simulated, interactions=replace(rows, feedback=np.zeros_like(rows.feedback)))
    with pytest.raises(ConfigError, match=r"no impression of the training split has positive feedback \(click, "):
        train_retrieval(nothing, small_config.retrieval, seed=0, device=CPU, progress=False)
