"""Candidates for a user out of the release's retrieval index."""

from __future__ import annotations

from pathlib import Path

import faiss

from ranktower.embedding_store.faiss_index import load_index, pooled_vectors, search
from ranktower.embedding_store.local import LocalTable
from ranktower.release import RETRIEVAL_INDEX, TABLES, Manifest
from service.scorer import UserRow


class Retrieval:
    """``items.faiss``, whose row numbers are those of the release's table of items."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open both; ReleaseError if they cannot be used together."""
        width = manifest.shape.width
        self._index = load_index(folder / RETRIEVAL_INDEX, num_items=manifest.num_items, width=width)
        self._items = LocalTable(folder / TABLES["item"], manifest.layout("item"))
        self._users = manifest.layout("user")

    def candidate_ids(self, user: UserRow, num_candidates: int) -> list[str]:
        """At most ``num_candidates`` items nearest to the user's multi-embedding, nearest first."""
        # A worker is one core: threads of FAISS would only take turns on it. The setting is the calling thread's own,
        # and another thread opened the release.
        faiss.omp_set_num_threads(1)
        vector = pooled_vectors(self._users.decode(user)["embedding"])[0]
        return self._items.ids_at(search(self._index, vector, num_candidates))


def open_retrieval(folder: Path, manifest: Manifest) -> Retrieval | None:
    """The release's retrieval; None if it has no index, or no table of items that would give its rows their ids."""
    if RETRIEVAL_INDEX not in manifest.files or not manifest.has_table("item"):
        return None
    return Retrieval(folder, manifest)
