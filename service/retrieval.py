"""Candidates for a user out of the release's retrieval index, and out of the overlay in front of its items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.faiss_index import load_index, pooled_vectors, search, search_products
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.overlay import Overlay, common_rows
from ranktower.release import RETRIEVAL_INDEX, TABLES, Manifest
from service.scorer import UserRow

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class OverlaidItems:
    """The items of an overlay, as they are searched."""

    table: LocalTable
    vectors: NDArray[np.float32]
    """[n, D]: their pooled vectors, by row number of ``table``."""
    replaced: NDArray[np.int64]
    """Row numbers, in the release's own table, of those among them that stand in the index too."""


class Retrieval:
    """``items.faiss``, whose row numbers are those of the release's table of items."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open both; ReleaseError if they cannot be used together."""
        width = manifest.shape.width
        self._index = load_index(folder / RETRIEVAL_INDEX, num_items=manifest.num_items, width=width)
        self._items = LocalTable(folder / TABLES["item"], manifest.layout("item"))
        self._users = manifest.layout("user")
        self._embeddings = manifest.redis_layout("item")
        self._overlaid: OverlaidItems | None = None

    def read_overlay(self, overlay: Overlay | None) -> OverlaidItems | None:
        """What ``use_overlay`` takes, None where there are no items. This is work; any thread may do it."""
        table = overlay.tables.get("item") if overlay is not None else None
        if table is None:
            return None
        vectors = []
        for start in range(0, len(table), _BATCH_ROWS):
            raw = table.embeddings_at(np.arange(start, min(start + _BATCH_ROWS, len(table))))
            vectors.append(pooled_vectors(self._embeddings.decode(raw)["embedding"]))
        return OverlaidItems(table, np.concatenate(vectors), common_rows(self._items, table)[0])

    def use_overlay(self, overlaid: OverlaidItems | None) -> None:
        """From now on find the items of an overlay too, and where they stand in the index as well, not there."""
        self._overlaid = overlaid

    def candidate_ids(self, user: UserRow, num_candidates: int) -> list[str]:
        """At most ``num_candidates`` items nearest to the user's multi-embedding, nearest first."""
        # A worker is one core: threads of FAISS would only take turns on it. The setting is the calling thread's own,
        # and another thread opened the release.
        faiss.omp_set_num_threads(1)
        vector = pooled_vectors(self._users.decode(user)["embedding"])[0]
        if self._overlaid is not None:
            return self._merged_ids(self._overlaid, vector, num_candidates)
        return self._items.ids_at(search(self._index, vector, num_candidates))

    def _merged_ids(self, overlaid: OverlaidItems, vector: NDArray[np.float32], num_candidates: int) -> list[str]:
        rows, products = self._search_others(overlaid.replaced, vector, num_candidates)
        products = np.concatenate([products, overlaid.vectors @ vector])
        best = np.argsort(-products, kind="stable")[:num_candidates]
        is_new = best >= len(rows)
        ids = np.empty(len(best), dtype=object)
        ids[~is_new] = self._items.ids_at(rows[best[~is_new]])
        ids[is_new] = overlaid.table.ids_at(best[is_new] - len(rows))
        found: list[str] = ids.tolist()
        return found

    def _search_others(
        self, replaced: NDArray[np.int64], vector: NDArray[np.float32], num_wanted: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and products of the index, best first, at least the ``num_wanted`` best that are not ``replaced``."""
        asked = num_wanted + min(len(replaced), num_wanted)
        while True:
            rows, products = search_products(self._index, vector, asked)
            others = ~np.isin(rows, replaced)
            if np.count_nonzero(others) >= num_wanted or len(rows) < asked:
                return rows[others], products[others]
            asked *= 2


def open_retrieval(folder: Path, manifest: Manifest) -> Retrieval | None:
    """The release's retrieval; None if it has no index, or no table of items that would give its rows their ids."""
    if RETRIEVAL_INDEX not in manifest.files or not manifest.has_table("item"):
        return None
    return Retrieval(folder, manifest)
