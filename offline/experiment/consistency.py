"""How far a pre-ranker agrees with its teacher about what was retrieved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.experiment.protocol import ConsistencyOptions
from ranktower.data.dataset import TEST, PreparedDataset
from ranktower.file_lock import file_lock
from ranktower.metrics import mean_over_users, overlap_at_k, recall_at_k
from ranktower.training.evaluation import Scorer
from ranktower.training.teacher_ensemble import TeacherEnsemble

# The teacher's best, of which a pre-ranker must not lose any, and how far down the pre-ranker's order they may stand.
_BEST, _KEPT = 10, 100


@dataclass(frozen=True)
class TeacherLists:
    """What the teacher thinks of some test users' retrieved items.

    Attributes:
        user_rows: ``[U]``.
        item_rows: ``[U, N]``, -1 where a user has fewer.
        scores: float32 ``[U, N]``, NaN there.
    """

    user_rows: NDArray[np.int64]
    item_rows: NDArray[np.int32]
    scores: NDArray[np.float32]


def teacher_lists(
    dataset: PreparedDataset,
    teacher: Path,
    candidates: Path,
    options: ConsistencyOptions,
    *,
    tested_on: PreparedDataset,
) -> TeacherLists:
    """The teacher's probabilities of the items that ``candidates`` (an ``.npy`` file) holds for some test users.

    They are the same for every model, so they are kept beside the candidates.

    Args:
        dataset: with the teacher's soft labels.
        teacher: its folder.
        candidates: item rows by user row, best first.
        options: how many users, and how many items of each.
        tested_on: the part of ``dataset`` whose test users they are drawn from.
    """
    of = f"{dataset.teacher_id[:8]}-{tested_on.data_id[:8]}"
    kept = candidates.with_name(f"teacher-{of}-{options.num_users}x{options.num_candidates}.npz")
    with file_lock(candidates.with_name(".teacher.lock")):
        if not kept.is_file():
            users = _drawn_users(tested_on, options.num_users)
            items = np.load(candidates, allow_pickle=False)[users, : options.num_candidates]
            made = _score(TeacherEnsemble.load(teacher, dataset), users, items)
            aside = kept.with_name(f".{kept.name}")
            np.savez(aside, user_rows=made.user_rows, item_rows=made.item_rows, scores=made.scores)
            aside.replace(kept)
    with np.load(kept, allow_pickle=False) as arrays:
        return TeacherLists(arrays["user_rows"], arrays["item_rows"], arrays["scores"])


def _drawn_users(dataset: PreparedDataset, num_users: int) -> NDArray[np.int64]:
    interactions = dataset.interactions
    users = np.unique(interactions.user_row[interactions.split == TEST]).astype(np.int64)
    return np.sort(np.random.default_rng(0).permutation(users)[:num_users])


def _score(teacher: TeacherEnsemble, users: NDArray[np.int64], items: NDArray[np.int32]) -> TeacherLists:
    scores = np.full(items.shape, np.nan, dtype=np.float32)
    places = np.nonzero(items >= 0)
    scores[places] = teacher.score(users[places[0]], items[places].astype(np.int64))
    return TeacherLists(users, items, scores)


def consistency(scorer: Scorer, lists: TeacherLists) -> dict[str, Any]:
    """Overlap of the model's first 10 and 100 with the teacher's, and the part of the teacher's first 10 that stands in
    the model's first 100; means over the users."""
    mask = lists.item_rows >= 0
    scores = np.full(mask.shape, np.nan, dtype=np.float32)
    for place, user in enumerate(lists.user_rows.tolist()):
        scores[place, mask[place]] = scorer(user, lists.item_rows[place, mask[place]])
    order = np.argsort(-np.where(mask, lists.scores, -np.inf), axis=1, kind="stable")
    best = np.zeros(mask.shape)
    np.put_along_axis(best, order[:, :_BEST], 1.0, axis=1)
    found = {f"overlap@{k}": overlap_at_k(scores, lists.scores, mask=mask, k=k) for k in (_BEST, _KEPT)}
    found["survival"] = recall_at_k(scores, best * mask, mask=mask, k=_KEPT)
    means = {name: round(mean_over_users(values), 6) for name, values in found.items()}
    return {"num_users": len(mask), "num_candidates": mask.shape[1], **means}
