from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import EncodedLists, IntTower, IntTowerConfig

Matrix = NDArray[np.float64]
CONFIG = IntTowerConfig(num_heads=3, width=6, field_width=8, hidden=(20, 14), initial_tau=0.2, cir_weight=0.5)


@pytest.fixture
def model(user_sizes: FieldSizes, item_sizes: FieldSizes) -> IntTower:
    torch.manual_seed(5)
    return IntTower(CONFIG, user_sizes, item_sizes).double()


def layers(model: IntTower, side: str, features: SideFeatures) -> list[Matrix]:
    """The outputs of a tower's layers from the formulas: Light-SE of the fields, then ReLU layers."""
    state = {name: value.numpy() for name, value in model.state_dict().items() if name.startswith(side)}
    fields = getattr(model, side).fields(features).detach().numpy()
    logits = fields.mean(axis=2) @ state[f"{side}.light_se.excitation.weight"].T
    weights = np.exp(logits + state[f"{side}.light_se.excitation.bias"])
    weights /= weights.sum(axis=1, keepdims=True)
    output = (fields * (1 + weights[:, :, None])).reshape(len(fields), -1)
    outputs = []
    for layer in range(2):
        weight, bias = state[f"{side}.layers.{layer}.weight"], state[f"{side}.layers.{layer}.bias"]
        output = np.maximum(output @ weight.T + bias, 0)
        outputs.append(output)
    return outputs


def sub_spaces(model: IntTower, side: str, projection: int, output: Matrix) -> Matrix:
    """One layer in its M sub-spaces, unit vectors ``[n, M, width]``."""
    linear = getattr(model, side).sub_spaces.projections[projection]
    vectors = output @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    vectors = vectors.reshape(len(output), 3, 6)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))


def test_scores_equal_the_papers_formulas(
    model: IntTower, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    of_user = layers(model, "user_tower", user_features)
    items = sub_spaces(model, "item_tower", 0, layers(model, "item_tower", item_features)[-1])
    users = [sub_spaces(model, "user_tower", layer, output) for layer, output in enumerate(of_user)]
    with torch.no_grad():
        lists = tuple(array.expand(6, *array.shape) for array in model.encode_items(item_features))
        scores = model.score_pairs(model.encode_users(user_features), lists).numpy()
    for b in range(6):
        for j in range(11):
            total = sum(max(user[b, m] @ items[j, q] for q in range(3)) for user in users for m in range(3))
            assert scores[b, j] == pytest.approx(total / 0.2, rel=1e-6)
    assert np.ptp(scores) > 0.05, "the scores must differ, or their agreement says nothing"


def test_cir_is_info_nce_over_the_batchs_items(
    model: IntTower, user_features: SideFeatures, item_features: SideFeatures, encode: Callable[..., EncodedLists]
) -> None:
    """From the definition, one positive pair after the other; items 9 and 10 stand in no list."""
    places = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [2, 0, 9], [1, 3, 10], [9, 10, 9]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [True, True, False], [True, True, False], [False] * 3])
    labels = torch.tensor([[1, 0, 2], [0, 0, 0], [3, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]).double()
    lists = encode(model, places, labels, mask)
    users = sub_spaces(model, "user_tower", 1, layers(model, "user_tower", user_features)[-1])
    items = sub_spaces(model, "item_tower", 0, layers(model, "item_tower", item_features)[-1])
    means = []
    for b in range(6):
        similar = [float((users[b] * items[j]).sum()) / 3 / CONFIG.cir_temperature for j in range(9)]
        positives = [places[b, c].item() for c in range(3) if mask[b, c] and labels[b, c] > 0]
        if positives:
            total = sum(math.exp(value) for value in similar)
            means.append(-sum(math.log(math.exp(similar[j]) / total) for j in positives) / len(positives))
    assert len(means) == 4
    value = model.auxiliary_loss(lists, torch.zeros(6, 3, dtype=torch.float64))
    assert value.item() == pytest.approx(0.5 * sum(means) / 4, rel=1e-9)


def test_a_weight_of_zero_leaves_cir_out(
    user_sizes: FieldSizes, item_sizes: FieldSizes, encode: Callable[..., EncodedLists]
) -> None:
    model = IntTower(IntTowerConfig(cir_weight=0.0), user_sizes, item_sizes)
    places = torch.zeros(6, 2, dtype=torch.int64)
    lists = encode(model, places, torch.ones(6, 2), places == 0)
    assert model.auxiliary_loss(lists, torch.zeros(6, 2)).item() == 0


def test_a_tower_needs_a_layer() -> None:
    with pytest.raises(ValidationError, match="hidden"):
        IntTowerConfig(hidden=())
