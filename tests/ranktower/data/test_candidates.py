from __future__ import annotations

import numpy as np

from ranktower.data.candidates import retrieve_candidates
from ranktower.data.dataset import TRAIN, PreparedDataset


def test_are_the_best_items_without_the_users_training_interactions(simulated: PreparedDataset) -> None:
    random = np.random.default_rng(0)
    users = random.standard_normal((len(simulated.users), 6)).astype(np.float32)
    items = random.standard_normal((len(simulated.items), 6)).astype(np.float32)
    found = retrieve_candidates(users, items, simulated, num_candidates=25, batch_users=40)
    table = simulated.interactions
    for user in range(len(users)):
        seen = set(table.item_row[(table.user_row == user) & (table.split == TRAIN)].tolist())
        ranked = np.argsort(-(items @ users[user]), kind="stable").tolist()
        assert found[user].tolist() == [item for item in ranked if item not in seen][:25]


def test_missing_ones_are_minus_one(simulated: PreparedDataset) -> None:
    users = np.ones((len(simulated.users), 2), dtype=np.float32)
    items = np.ones((len(simulated.items), 2), dtype=np.float32)
    found = retrieve_candidates(users, items, simulated, num_candidates=len(items) + 10)
    table = simulated.interactions
    for user in range(len(users)):
        num_seen = int(((table.user_row == user) & (table.split == TRAIN)).sum())
        assert (found[user] == -1).sum() == num_seen + 10
        assert (found[user][: len(items) - num_seen] >= 0).all()
