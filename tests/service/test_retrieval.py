"""Retrieval in a process, as a worker uses it: opened by one thread, asked by another."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from ranktower.embedding_store.local import LocalTable
from service.retrieval import Retrieval, open_retrieval


def opened_elsewhere(release: Any) -> Retrieval:
    found: list[Retrieval | None] = []
    thread = threading.Thread(target=lambda: found.append(open_retrieval(release.folder, release.manifest)))
    thread.start()
    thread.join()
    assert found[0] is not None
    return found[0]


def first_user(release: Any) -> np.ndarray:
    """The stored row of the first user of ``release.arrays("user")``."""
    return LocalTable(release.folder / "users", release.manifest.layout("user")).fetch(release.user_ids[:1]).raw


def test_the_nearest_items_first(release: Any) -> None:
    embedding = release.arrays("user")[0][:1].numpy()
    items = release.arrays("item")[0].numpy()

    def pooled(embedding: np.ndarray) -> np.ndarray:
        return (embedding / np.linalg.norm(embedding, axis=2, keepdims=True)).mean(axis=1)

    similarity = pooled(items) @ pooled(embedding)[0]
    expected = [release.item_ids[index] for index in np.argsort(-similarity)[:10]]
    assert opened_elsewhere(release).candidate_ids(first_user(release), 10) == expected


def test_a_search_takes_one_thread(release: Any) -> None:
    faiss.omp_set_num_threads(2)
    opened_elsewhere(release).candidate_ids(first_user(release), 10)
    assert faiss.omp_get_max_threads() == 1
