from __future__ import annotations

import math

import numpy as np
import torch

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.models import TwoTower, TwoTowerConfig


def test_score_is_the_cosine_of_the_towers_over_tau(
    user_sizes: FieldSizes, item_sizes: FieldSizes, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    torch.manual_seed(0)
    model = TwoTower(TwoTowerConfig(width=12, hidden=(20,), initial_tau=0.2), user_sizes, item_sizes)
    with torch.no_grad():
        users = model.user_tower(user_features).double().numpy()
        items = model.item_tower(item_features).double().numpy()
        rows = model.encode_items(item_features)[0].expand(6, 11, 12)
        scores = model.score_pairs(model.encode_users(user_features), (rows,)).numpy()
    for b in range(6):
        for j in range(11):
            length = math.sqrt(float(users[b] @ users[b]) * float(items[j] @ items[j]))
            np.testing.assert_allclose(scores[b, j], float(users[b] @ items[j]) / length / 0.2, atol=1e-5)


def test_rows_are_unit_vectors(user_sizes: FieldSizes, item_sizes: FieldSizes, item_features: SideFeatures) -> None:
    model = TwoTower(TwoTowerConfig(), user_sizes, item_sizes)
    rows = model.encode_items(item_features)[0]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(11))
