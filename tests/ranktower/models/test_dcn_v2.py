from __future__ import annotations

import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models.dcn_v2 import DCNV2, DCNV2Config
from ranktower.training.tensors import take


def test_cross_network_and_mlp_stand_side_by_side(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    torch.manual_seed(0)
    config = DCNV2Config(width=3, num_cross_layers=2, rank=2, hidden=(5, 4))
    model = DCNV2(config, user_sizes, item_sizes).double()
    items = take(item_features, torch.arange(6))
    first, last = model.network.layers[0], model.network.layers[-1]
    for found, rows in zip(model(user_features, items), model.embedding(user_features, items), strict=True):
        x0 = x = torch.cat(list(rows))
        for down, up in zip(model.cross.down, model.cross.up, strict=True):
            x = x0 * (up.weight @ (down.weight @ x) + up.bias) + x
        deep = (last.weight @ (first.weight @ x0 + first.bias).clamp_min(0) + last.bias).clamp_min(0)
        torch.testing.assert_close(found, (model.score.weight @ torch.cat([x, deep]) + model.score.bias)[0])
