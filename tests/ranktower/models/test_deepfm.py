from __future__ import annotations

import itertools

import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models.deepfm import DeepFM, DeepFMConfig
from ranktower.training.tensors import take


def test_it_is_first_order_plus_pairs_plus_mlp(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    torch.manual_seed(0)
    model = DeepFM(DeepFMConfig(width=3, hidden=(5,)), user_sizes, item_sizes).double()
    with torch.no_grad():
        model.bias += 0.5
        model.embedding.weight *= 50
    items = take(item_features, torch.arange(6))
    fields = model.embedding(user_features, items)
    assert fields.shape == (6, 7, 4)
    hidden, output = model.network.layers[0], model.network.layers[-1]
    for found, rows in zip(model(user_features, items), fields, strict=True):
        vectors = rows[:, :3]
        expected = 0.5 + rows[:, 3].sum()
        expected = expected + sum(vectors[i] @ vectors[j] for i, j in itertools.combinations(range(7), 2))
        deep = torch.relu(hidden.weight @ torch.cat(list(vectors)) + hidden.bias)
        torch.testing.assert_close(found, expected + (output.weight @ deep + output.bias)[0])
