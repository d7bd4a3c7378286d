"""Retrieval in a process, as a worker uses it: opened by one thread, asked by another."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from ranktower.embedding_store.codec import ARRAYS
from service.retrieval import Retrieval, open_retrieval


def opened_elsewhere(release: Any) -> Retrieval:
    found: list[Retrieval | None] = []
    thread = threading.Thread(target=lambda: found.append(open_retrieval(release.folder, release.manifest)))
    thread.start()
    thread.join()
    assert found[0] is not None
    return found[0]


def test_the_nearest_items_first(release: Any) -> None:
    user = {name: array[:1].numpy() for name, array in zip(ARRAYS, release.arrays("user"), strict=True)}
    items = release.arrays("item")[0].numpy()

    def pooled(embedding: np.ndarray) -> np.ndarray:
        return (embedding / np.linalg.norm(embedding, axis=2, keepdims=True)).mean(axis=1)

    similarity = pooled(items) @ pooled(user["embedding"])[0]
    expected = [release.item_ids[index] for index in np.argsort(-similarity)[:10]]
    assert opened_elsewhere(release).candidate_ids(user, 10) == expected


def test_a_search_takes_one_thread(release: Any) -> None:
    user = {name: array[:1].numpy() for name, array in zip(ARRAYS, release.arrays("user"), strict=True)}
    faiss.omp_set_num_threads(2)
    opened_elsewhere(release).candidate_ids(user, 10)
    assert faiss.omp_get_max_threads() == 1
