"""Candidate samples: the items a retrieval model would have sent to the ranker (METHOD §4), found with FAISS."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from ranktower.data.dataset import TRAIN, PreparedDataset


def retrieve_candidates(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    dataset: PreparedDataset,
    *,
    num_candidates: int,
    batch_users: int = 4096,
) -> NDArray[np.int32]:
    """Each user's best items by inner product, minus the user's interactions of the training split.

    Only training interactions are left out: an item missing for a validation or test interaction would tell training
    that the user saw it.

    Args:
        user_vectors: ``[num_users, d]``.
        item_vectors: ``[num_items, d]``.
        dataset: the users and items of the two, in the same order.
        num_candidates: C.
        batch_users: users searched at once, which bounds the memory.

    Returns:
        Item rows, best first, ``[num_users, C]``; -1 where a user has fewer.
    """
    interactions = dataset.interactions
    train = interactions.split == TRAIN
    # Sorted by user: the keys are too, up to the item within the user.
    num_items = len(item_vectors)
    seen = np.sort(interactions.user_row[train].astype(np.int64) * num_items + interactions.item_row[train])
    most_seen = int(np.bincount(interactions.user_row[train]).max(initial=0))
    index = faiss.IndexFlatIP(item_vectors.shape[1])
    index.add(np.ascontiguousarray(item_vectors, dtype=np.float32))
    depth = min(num_candidates + most_seen, num_items)
    found = np.full((len(user_vectors), num_candidates), -1, dtype=np.int32)
    for start in range(0, len(user_vectors), batch_users):
        vectors = np.ascontiguousarray(user_vectors[start : start + batch_users], dtype=np.float32)
        rows = index.search(vectors, depth)[1]
        keys = (start + np.arange(len(rows)))[:, None] * num_items + rows
        places = np.searchsorted(seen, keys).clip(max=max(len(seen) - 1, 0))
        new = (seen[places] != keys if len(seen) else np.ones_like(keys, dtype=bool)) & (rows >= 0)
        # A stable sort on "not new" moves what is kept to the front and leaves its order.
        order = np.argsort(~new, axis=1, kind="stable")[:, :num_candidates]
        kept = np.where(np.take_along_axis(new, order, 1), np.take_along_axis(rows, order, 1), -1)
        found[start : start + len(rows), : kept.shape[1]] = kept
    return found
