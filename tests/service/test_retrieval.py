"""Retrieval in a process, as a worker uses it: opened by one thread, asked by another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.overlay_writer import NewRows, write_overlay
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


@pytest.mark.parametrize("num_replaced", [0, 3, 290])
def test_the_items_of_an_overlay_are_found_where_they_are_now(release: Any, tmp_path: Path, num_replaced: int) -> None:
    """Items of the overlay get the rows of others, so that the order is another one; two are new."""
    retrieval = opened_elsewhere(release)
    layout = release.manifest.layout("item")
    before = retrieval.candidate_ids(first_user(release), 400)
    ids = [*before[:num_replaced], "new-1", "new-2"]
    sources = [*before[::-1][:num_replaced], before[0], before[-1]]
    raw = LocalTable(release.folder / "items", layout).fetch(sources).raw
    overlay = write_overlay(tmp_path, release.manifest, None, {"item": NewRows(ids, raw)}, created_s=1)
    retrieval.use_overlay(retrieval.read_overlay(overlay))
    user, items = (torch.nn.functional.normalize(release.arrays(side)[0], dim=2) for side in ("user", "item"))
    similarity = (items.mean(dim=1) @ user[0].mean(dim=0)).tolist()
    product = dict(zip(release.item_ids, similarity, strict=True))
    now = product | {one: product[source] for one, source in zip(ids, sources, strict=True)}
    for num_candidates in (1, 5, 100, 1000):
        found = retrieval.candidate_ids(first_user(release), num_candidates)
        assert len(set(found)) == len(found)
        # The index holds vectors from before the rows were rounded, so neighbours may have changed places.
        nearest = sorted(now.values(), reverse=True)[:num_candidates]
        np.testing.assert_allclose([now[item] for item in found], nearest, atol=1e-3)
    retrieval.use_overlay(retrieval.read_overlay(None))
    assert retrieval.candidate_ids(first_user(release), 400) == before
