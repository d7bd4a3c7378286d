from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.data.dataset import TEST, TRAIN, VALIDATION, Interactions, PreparedDataset
from ranktower.training.evaluation import EvaluationOptions, evaluate, popularity_scorer


def rows_of(data: PreparedDataset, user: int, *splits: int) -> Interactions:
    table = data.interactions
    return table.take(np.flatnonzero((table.user_row == user) & np.isin(table.split, splits) & (table.stage == 0)))


def by_item(user: int, items: NDArray[Any]) -> NDArray[np.float32]:
    """A scorer without ties whose order depends on the user."""
    return np.sin(items * 12.9898 + user * 78.233).astype(np.float32)


def by_hand(data: PreparedDataset, user: int, pool: list[int], k: int) -> tuple[float, float]:
    """Recall and NDCG of one user, from their definitions."""
    own = rows_of(data, user, TEST)
    gains = dict(zip(own.item_row.tolist(), own.feedback.tolist(), strict=True))
    scores = by_item(user, np.array(pool))
    ranked = [item for _, item in sorted(zip(-scores, pool, strict=True))]
    positives = {item for item, gain in gains.items() if gain > 0}
    recall = len(positives & set(ranked[:k])) / len(positives)
    dcg = sum(gains.get(item, 0.0) / math.log2(place + 2) for place, item in enumerate(ranked[:k]))
    ideal = sum(g / math.log2(place + 2) for place, g in enumerate(sorted(gains.values(), reverse=True)[:k]))
    return recall, dcg / ideal


@pytest.mark.parametrize("pool", ["full_corpus", "impressions"])
def test_both_pools_follow_their_definition(pool: Any, simulated: PreparedDataset) -> None:
    result = evaluate(by_item, simulated, EvaluationOptions(pool=pool, k=5))
    tested = 0
    for user in range(len(simulated.users)):
        own = rows_of(simulated, user, TEST)
        if not (own.feedback > 0).any():
            assert user not in result.users
            continue
        seen = set(rows_of(simulated, user, TRAIN, VALIDATION).item_row.tolist())
        corpus = [item for item in range(len(simulated.items)) if item not in seen]
        items = corpus if pool == "full_corpus" else own.item_row.tolist()
        place = int(np.flatnonzero(result.users == user)[0])
        recall, ndcg = by_hand(simulated, user, items, 5)
        assert result.recalls[place] == pytest.approx(recall)
        assert result.ndcgs[place] == pytest.approx(ndcg)
        tested += 1
    assert tested == result.num_users > 50
    assert result.recall == pytest.approx(result.recalls.mean())


def test_validation_does_not_see_test(simulated: PreparedDataset) -> None:
    """A user's validation pool leaves out training interactions only, and its positives are validation's."""
    pools: dict[int, set[int]] = {}

    def record(user: int, items: NDArray[Any]) -> NDArray[np.float32]:
        pools[user] = set(items.tolist())
        return by_item(user, items)

    evaluate(record, simulated, EvaluationOptions(split="validation", k=5))
    for user, pool in pools.items():
        train = set(rows_of(simulated, user, TRAIN).item_row.tolist())
        assert pool == set(range(len(simulated.items))) - train


def test_drawn_users_are_the_same_for_the_same_seed(simulated: PreparedDataset) -> None:
    first, again = (evaluate(by_item, simulated, EvaluationOptions(max_users=20, seed=3)) for _ in range(2))
    other = evaluate(by_item, simulated, EvaluationOptions(max_users=20, seed=4))
    assert first.users.tolist() == again.users.tolist()
    assert first.users.tolist() != other.users.tolist()
    assert first.num_users == 20


def test_popularity_counts_the_training_splits_positives(simulated: PreparedDataset) -> None:
    table = simulated.interactions
    counts = np.zeros(len(simulated.items))
    for item, split, feedback in zip(table.item_row, table.split, table.feedback, strict=True):
        counts[item] += split == TRAIN and feedback > 0
    scores = popularity_scorer(simulated)(0, np.arange(len(simulated.items)))
    np.testing.assert_array_equal(scores, counts)
