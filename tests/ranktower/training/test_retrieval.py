from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ranktower.data.dataset import TEST, TRAIN, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.errors import ConfigError
from ranktower.models import TwoTower
from ranktower.training.config import TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.retrieval import train_retrieval
from ranktower.training.tensors import side_features, side_sizes

CPU = torch.device("cpu")


def retrieving(config: TrainConfig, of: str, *, epochs: int = 1, **other: Any) -> TrainConfig:
    """The configuration with another retrieval."""
    settings = {"of": of, "epochs": epochs, "batch_users": 16, "learning_rate": 0.005} | other
    return config.model_copy(update={"retrieval": config.retrieval.model_copy(update=settings)})


@pytest.mark.parametrize("of", ["positives", "impressions"])
def test_ranks_far_better_than_chance(of: str, simulated: PreparedDataset, small_config: TrainConfig) -> None:
    model = train_retrieval(simulated, retrieving(small_config, of, epochs=30), device=CPU, progress=False)
    result = evaluate(ModelScorer.encode(model, simulated), simulated, EvaluationOptions(k=20))
    chance = 20 / len(simulated.items)
    assert result.recall > 2 * chance


def test_the_same_seed_gives_the_same_weights(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    first, again = (
        train_retrieval(simulated, small_config.model_copy(update={"seed": 2}), device=CPU, progress=False)
        for _ in range(2)
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_data_without_a_positive_is_refused(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    rows = simulated.interactions
    nothing = replace(simulated, interactions=replace(rows, feedback=np.zeros_like(rows.feedback)))
    with pytest.raises(ConfigError, match=r"no impression of the training split has positive feedback \(click, "):
        train_retrieval(nothing, small_config, device=CPU, progress=False)


def test_data_without_an_impression_is_refused(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    rows = simulated.interactions
    nothing = replace(simulated, interactions=replace(rows, split=np.full_like(rows.split, TEST)))
    with pytest.raises(ConfigError, match="no impression of the training split is there"):
        train_retrieval(nothing, retrieving(small_config, "impressions"), device=CPU, progress=False)


@pytest.mark.parametrize("of", ["positives", "impressions"])
def test_a_step_is_the_softmax_of_each_pair(of: str, simulated: PreparedDataset, small_config: TrainConfig) -> None:
    """One step over all users by plain Adam against the loss written out pair by pair, in float64."""
    rows, num_users = simulated.interactions, len(simulated.users)
    config = retrieving(small_config, of, batch_users=num_users, num_negatives=50)
    trained = train_retrieval(simulated, config, device=CPU, progress=False)
    torch.manual_seed(config.seed)
    sizes = side_sizes(simulated.encoder, {})
    model = TwoTower(config.retrieval.model, *sizes).double()
    generator = torch.Generator().manual_seed(config.seed)
    asked = (rows.split == TRAIN) & (rows.stage == STAGES.index("impression"))
    asked &= (rows.feedback > 0) | (of == "impressions")
    torch.randperm(len(np.unique(rows.user_row[asked])), generator=generator)
    drawn = torch.randint(len(simulated.items), (50,), generator=generator)
    (users,) = model.encode_users(side_features(simulated.users.features))
    (items,) = model.encode_items(side_features(simulated.items.features))
    losses = []
    for user, item in zip(rows.user_row[asked], rows.item_row[asked], strict=True):
        others = torch.tensor(sorted(set(drawn.tolist()) - {item}))
        scores = torch.stack([users[user] @ items[item], *(items[others] @ users[user])]) / model.log_tau.exp()
        losses.append(-torch.log_softmax(scores, dim=0)[0])
    torch.stack(losses).mean().backward()
    # Adam's first step is the learning rate times the gradient's sign, wherever the gradient is not tiny.
    for (name, parameter), moved in zip(model.named_parameters(), trained.parameters(), strict=True):
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-6
        step = (moved.detach().double() - parameter.detach())[clear]
        expected = -config.retrieval.learning_rate * parameter.grad[clear].sign()
        torch.testing.assert_close(step, expected, rtol=0.02, atol=1e-6, msg=name)
