from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ranktower.data.dataset import TEST, TRAIN, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.errors import ConfigError
from ranktower.models import TwoTower, TwoTowerConfig
from ranktower.training.config import TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.retrieval import ItemsByUser, retrieval_loss, train_retrieval
from ranktower.training.tensors import side_features, side_sizes, take

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


def by_definition(scores: torch.Tensor, pairs: list[tuple[int, int]], drawn: set[int]) -> torch.Tensor:
    """Mean over the pairs of -log softmax among its item and the others that were drawn; ``scores [B, items]``."""
    losses = []
    for user, item in pairs:
        others = sorted(drawn - {item})
        logits = torch.cat([scores[user, item].unsqueeze(0), scores[user, others]])
        losses.append(-torch.log_softmax(logits, dim=0)[0])
    return torch.stack(losses).mean()


def test_the_loss_and_its_gradients_are_those_of_the_definition(simulated: PreparedDataset) -> None:
    """Items that were drawn, twice too, and items that were not; in float64."""
    torch.manual_seed(3)
    model = TwoTower(TwoTowerConfig(initial_tau=0.02), *side_sizes(simulated.encoder, {})).double()
    users, items = side_features(simulated.users.features), side_features(simulated.items.features)
    users = take(users, torch.tensor([5, 0, 9]))
    places, item_rows = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([4, 7, 30, 7, 8])
    drawn = torch.tensor([7, 11, 7, 30, 12, 2, 11])
    found = retrieval_loss(model, users, items, places, item_rows, drawn)
    gradients = torch.autograd.grad(found, list(model.parameters()))
    scores = model.encode_users(users)[0] @ model.encode_items(items)[0].T / model.log_tau.exp()
    pairs = list(zip(places.tolist(), item_rows.tolist(), strict=True))
    expected = by_definition(scores, pairs, set(drawn.tolist()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of", ["positives", "impressions"])
def test_a_step_is_over_each_pair_of_its_users(of: str, simulated: PreparedDataset, small_config: TrainConfig) -> None:
    """One step over all users by Adam against the loss written out pair by pair."""
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
    pairs = list(zip(rows.user_row[asked].tolist(), rows.item_row[asked].tolist(), strict=True))
    by_definition(users @ items.T / model.log_tau.exp(), pairs, set(drawn.tolist())).backward()
    # Adam's first step is the learning rate times the gradient's sign, wherever the gradient is not tiny.
    for (name, parameter), moved in zip(model.named_parameters(), trained.parameters(), strict=True):
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-6
        step = (moved.detach().double() - parameter.detach())[clear]
        expected = -config.retrieval.learning_rate * parameter.grad[clear].sign()
        torch.testing.assert_close(step, expected, rtol=0.02, atol=1e-6, msg=name)


def test_of_a_heavy_user_a_step_takes_a_stretch_and_all_items_get_their_turn() -> None:
    own = ItemsByUser(torch.tensor([3, 8]), torch.arange(100, 107), torch.tensor([0, 5, 7]))
    generator, seen = torch.Generator().manual_seed(0), torch.zeros(107)
    for _ in range(2000):
        places, items = own.pairs(torch.tensor([1, 0]), 3, generator)
        assert places.tolist() == [0, 0, 1, 1, 1]
        assert items[:2].tolist() in ([105, 106], [106, 105])
        assert len(set(items[2:].tolist())) == 3
        seen[items] += 1
    assert seen[100:105].sum() == 6000
    assert seen[100:105].min() > 1000
    assert seen[105:].tolist() == [2000, 2000]
    assert own.pairs(torch.tensor([0, 1]), 5, generator)[1].tolist() == [100, 101, 102, 103, 104, 105, 106]
