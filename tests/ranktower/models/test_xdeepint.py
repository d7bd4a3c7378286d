from __future__ import annotations

import pytest
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.errors import ConfigError
from ranktower.models.xdeepint import XDeepInt, XDeepIntConfig
from ranktower.training.tensors import take


def test_all_layers_of_the_interaction_network_reach_the_output(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    torch.manual_seed(0)
    model = XDeepInt(XDeepIntConfig(width=4, num_layers=2, num_subspaces=2), user_sizes, item_sizes).double()
    items = take(item_features, torch.arange(6))
    first, second = model.interactions.layers
    weights = model.score.weight[0].reshape(2, 14, 2)
    for found, rows in zip(model(user_features, items), model.embedding(user_features, items), strict=True):
        start = rows.reshape(14, 2)
        x1 = start * (first @ start) + start
        x2 = x1 * (second @ start) + x1
        torch.testing.assert_close(found, (weights[0] * x1).sum() + (weights[1] * x2).sum() + model.score.bias[0])


def test_subspaces_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="num_subspaces: must divide width 16, got 3"):
        XDeepIntConfig(num_subspaces=3)
