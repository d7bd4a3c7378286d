from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import COLD, COLDConfig

CONFIGS = [
    COLDConfig(hidden=(24, 12), num_cross=5),
    COLDConfig(hidden=(10,), num_cross=3, field_width=8),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["two layers", "mapped fields"])
def test_decoupled_scores_equal_one_network_over_the_pair(
    config: COLDConfig,
    user_sizes: FieldSizes,
    item_sizes: FieldSizes,
    user_features: SideFeatures,
    item_features: SideFeatures,
) -> None:
    """The model as the paper draws it, one pair at a time: all fields side by side, weighed, through one MLP."""
    torch.manual_seed(6)
    model = COLD(config, user_sizes, item_sizes).double()
    with torch.no_grad():
        lists = tuple(array.expand(6, *array.shape) for array in model.encode_items(item_features))
        scores = model.score_pairs(model.encode_users(user_features), lists).numpy()
        all_users = model.user_tower.fields(user_features).numpy()
        all_items = model.item_tower.fields(item_features).numpy()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    names = ("user_tower.excitation", "item_tower.excitation", "cross_excitation")
    excitation = np.concatenate([state[f"{name}.excitation.weight"] for name in names], axis=1)
    names = ("user_tower.first", "item_first", "cross_first")
    first = np.concatenate([state[f"{name}.weight"] for name in names], axis=1)

    def factor(side: str, fields: np.ndarray) -> np.ndarray:
        return np.asarray(state[f"{side}.cross.weight"] @ fields.ravel() + state[f"{side}.cross.bias"])

    for b, user in enumerate(all_users):
        for j, item in enumerate(all_items):
            cross = factor("user_tower", user) * factor("item_tower", item)
            fields = [*user, *item, cross]
            logits = excitation @ np.concatenate(fields) + state["user_tower.excitation.excitation.bias"]
            weights = 1 / (1 + np.exp(-logits))
            assert len(weights) == len(fields)
            weighed = np.concatenate([s * e for s, e in zip(weights, fields, strict=True)])
            output = first @ weighed + state["item_first.bias"]
            for layer in range(len(config.hidden)):
                name = f"rest.layers.{2 * layer}"
                output = state[f"{name}.weight"] @ np.maximum(output, 0) + state[f"{name}.bias"]
            assert scores[b, j] == pytest.approx(float(output[0]), rel=1e-9, abs=1e-12)


def test_the_order_of_items_depends_on_the_user(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    """A sum of a user's and an item's score would rank the items alike for everyone."""
    torch.manual_seed(6)
    model = COLD(COLDConfig(), user_sizes, item_sizes)
    with torch.no_grad():
        lists = tuple(array.expand(6, *array.shape) for array in model.encode_items(item_features))
        orders = model.score_pairs(model.encode_users(user_features), lists).argsort(dim=1)
    assert len({tuple(order) for order in orders.tolist()}) > 1


def test_the_network_needs_a_layer() -> None:
    with pytest.raises(ValidationError, match="hidden"):
        COLDConfig(hidden=())
