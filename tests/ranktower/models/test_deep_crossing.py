from __future__ import annotations

import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models.deep_crossing import DeepCrossing, DeepCrossingConfig
from ranktower.training.tensors import take


def test_it_stacks_rectified_embeddings_and_scores_behind_the_units(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    torch.manual_seed(0)
    model = DeepCrossing(DeepCrossingConfig(width=3, hidden=(5, 4)), user_sizes, item_sizes).double()
    items = take(item_features, torch.arange(6))
    assert [unit.inner.out_features for unit in model.units] == [5, 4]
    for found, rows in zip(model(user_features, items), model.embedding(user_features, items), strict=True):
        stacked = torch.cat([row.clamp_min(0) for row in rows])
        for unit in model.units:
            inner = (unit.inner.weight @ stacked + unit.inner.bias).clamp_min(0)
            stacked = (unit.outer.weight @ inner + unit.outer.bias + stacked).clamp_min(0)
        torch.testing.assert_close(found, (model.score.weight @ stacked + model.score.bias)[0])
