from __future__ import annotations

import numpy as np
import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import LR, LRConfig


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
