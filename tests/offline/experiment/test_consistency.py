"""Agreement with the teacher, on lists whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from offline.experiment.consistency import TeacherLists, consistency

N = 400
ITEMS = np.arange(N, dtype=np.int32)


def _lists(scores: np.ndarray) -> TeacherLists:
    return TeacherLists(np.array([0, 1]), np.stack([ITEMS, ITEMS]), np.stack([scores, scores]).astype(np.float32))


def test_the_teacher_agrees_with_itself() -> None:
    scores = np.random.default_rng(0).random(N)
    found = consistency(lambda user, items: scores[items], _lists(scores))
    assert (found["overlap@10"], found["overlap@100"], found["survival"]) == (1, 1, 1)
    assert (found["num_users"], found["num_candidates"]) == (2, N)


def test_the_opposite_order_shares_nothing() -> None:
    scores = np.random.default_rng(0).random(N)
    found = consistency(lambda user, items: -scores[items], _lists(scores))
    assert (found["overlap@10"], found["overlap@100"], found["survival"]) == (0, 0, 0)


def test_survival_asks_whether_the_teachers_ten_stand_in_the_models_hundred() -> None:
    """The model's order is the teacher's but for four of the teacher's ten, which it puts last."""
    teacher = -ITEMS.astype(float)
    model = np.where(ITEMS < 4, -1000.0, teacher)
    found = consistency(lambda user, items: model[items], _lists(teacher))
    assert found["survival"] == pytest.approx(0.6)
    assert found["overlap@10"] == pytest.approx(0.6)
    assert found["overlap@100"] == pytest.approx(0.96)


def test_a_user_with_fewer_candidates_is_scored_on_those() -> None:
    items = np.full((1, N), -1, dtype=np.int32)
    items[0, :200] = ITEMS[:200]
    scores = np.where(items >= 0, np.arange(N, dtype=np.float32), np.nan).astype(np.float32)
    asked = []

    def scorer(user: int, rows: np.ndarray) -> np.ndarray:
        asked.append(rows.min())
        return rows.astype(np.float32)

    found = consistency(scorer, TeacherLists(np.array([7]), items, scores))
    assert asked == [0]
    assert (found["overlap@100"], found["survival"]) == (1, 1)
