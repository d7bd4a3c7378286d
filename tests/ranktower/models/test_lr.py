from __future__ import annotations

import numpy as np
import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.losses import softmax_loss
from ranktower.models import LR, LRConfig
from ranktower.training.config import OptimizerConfig
from ranktower.training.optimizer import build_optimizer


@pytest.fixture
def model(user_sizes: FieldSizes, item_sizes: FieldSizes) -> LR:
    """With random weights; untrained ones are 0."""
    torch.manual_seed(0)
    model = LR(LRConfig(), user_sizes, item_sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def sum_of_weights(state: dict[str, torch.Tensor], side: str, sizes: FieldSizes, features: SideFeatures) -> list[float]:
    """Field by field and row by row, from a table that is cut into the fields' own."""
    cardinalities = [*sizes.single.values(), *sizes.bags.values()]
    tables = torch.split(state[f"{side}_tower.weights.weight"].double().flatten(), cardinalities)
    singles, bags = tables[: len(sizes.single)], tables[len(sizes.single) :]
    totals = []
    for row, codes in enumerate(features.codes.tolist()):
        total = sum(float(table[code]) for table, code in zip(singles, codes, strict=True))
        for table, values, lengths in zip(bags, features.bag_values, features.bag_lengths, strict=True):
            entries = [float(table[code]) for code in values[row, : lengths[row]].tolist()]
            total += sum(entries) / len(entries) if entries else 0.0
        totals.append(total)
    return totals


def test_a_score_is_the_sum_of_the_weights_of_both_sides(
    model: LR,
    user_sizes: FieldSizes,
    item_sizes: FieldSizes,
    user_features: SideFeatures,
    item_features: SideFeatures,
) -> None:
    state = model.state_dict()
    users = sum_of_weights(state, "user", user_sizes, user_features)
    items = sum_of_weights(state, "item", item_sizes, item_features)
    assert (item_features.bag_lengths[0] == 0).any(), "an empty bag must be among the cases"
    with torch.no_grad():
        rows = model.encode_items(item_features)[0].expand(6, 11, 1)
        scores = model.score_pairs(model.encode_users(user_features), (rows,)).numpy()
    expected = np.add.outer(users, items) + state["bias"].item()
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


def test_a_weight_for_each_feature_value_and_a_bias(user_sizes: FieldSizes, item_sizes: FieldSizes) -> None:
    model = LR(LRConfig(), user_sizes, item_sizes)
    values = 50 + 7 + 30 + 30 + 33 + 9 + 5
    assert sum(parameter.numel() for parameter in model.parameters()) == values + 1
    assert not any(parameter.any() for parameter in model.parameters())
    assert set(model.state_dict()) == {"bias", "user_tower.weights.weight", "item_tower.weights.weight"}


def test_a_side_may_have_bags_alone(user_sizes: FieldSizes) -> None:
    bags = FieldSizes(single={}, bags={"tags": 4})
    model = LR(LRConfig(), bags, user_sizes)
    with torch.no_grad():
        model.user_tower.weights.weight.copy_(torch.tensor([[1.0], [2.0], [4.0], [8.0]]))
    no_codes, values, lengths = torch.zeros(2, 0, dtype=torch.int64), [[3, 1], [2, 0]], [2, 1]
    features = SideFeatures(no_codes, (torch.tensor(values),), (torch.tensor(lengths),))
    torch.testing.assert_close(model.encode_users(features)[0], torch.tensor([[5.0], [4.0]]))


def found_of_the_most_popular(*, beta: float) -> int:
    """How many of the 100 most popular of 2,000 items LR ranks among its 100 best, after 40 steps of FTRL.

    A user likes items by their popularity, which falls with the rank, and the category has nothing to do with it. Each
    list holds 5 liked items and 20 drawn at random.
    """
    num_items, generator = 2000, torch.Generator().manual_seed(0)
    popularity = 1 / (1 + torch.randperm(num_items, generator=generator))
    categories = torch.randint(10, (num_items,), generator=generator)
    features = SideFeatures(torch.stack([torch.arange(num_items), categories], dim=1), (), ())
    sizes = FieldSizes(single={"item_id": num_items, "category": 10}, bags={})
    model = LR(LRConfig(), FieldSizes(single={"user_id": 1}, bags={}), sizes)
    optimizer = build_optimizer(model, OptimizerConfig(name="ftrl", beta=beta), learning_rate=0.3)
    labels = torch.cat([torch.ones(64, 5), torch.zeros(64, 20)], dim=1)
    for _ in range(40):
        liked = torch.multinomial(popularity.expand(64, -1), 5, generator=generator)
        drawn = torch.randint(num_items, (64, 20), generator=generator)
        scores = model.encode_items(features)[0].squeeze(-1)[torch.cat([liked, drawn], dim=1)]
        optimizer.zero_grad()
        softmax_loss(scores, labels, mask=torch.ones_like(labels, dtype=torch.bool)).backward()
        optimizer.step()
    with torch.no_grad():
        weights = model.encode_items(features)[0].squeeze(-1)
    return len(set(weights.topk(100).indices.tolist()) & set(popularity.topk(100).indices.tolist()))


def test_a_small_beta_lets_the_weights_of_single_items_learn() -> None:
    """The loss is a mean over lists: at a beta of 1 the few weights that items share outrun those of single items."""
    assert found_of_the_most_popular(beta=1.0) < 50
    assert found_of_the_most_popular(beta=0.01) > 75
