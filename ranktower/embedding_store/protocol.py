"""What the service asks of an embedding store, whichever one it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout, Rows, Side
from ranktower.errors import StoreError

__all__ = ["EmbeddingStore", "FailureKind", "Rows", "Side", "StoreUnavailableError", "StoredRows"]

FailureKind = Literal["timeout", "connection", "protocol", "auth"]


class StoreUnavailableError(StoreError):
    """A store did not answer. ``kind`` is the label of ``ranktower_store_errors_total``; the text has no secret."""

    def __init__(self, problem: str, *, kind: FailureKind) -> None:
        """``problem`` names the store's address and what happened."""
        super().__init__(problem)
        self.kind: FailureKind = kind


class StoredRows(Protocol):
    """What a store has of some ids, read already (``Rows``) or not (``LocatedRows``)."""

    @property
    def layout(self) -> RowLayout:
        """Of the whole rows."""
        ...

    @property
    def present(self) -> NDArray[np.bool_]:
        """[n]: True where the id has a row; ``present.sum() == k``."""
        ...

    @property
    def num_rejected(self) -> int:
        """How many stored values were no rows of this release; they count as missing."""
        ...

    def __len__(self) -> int:
        """How many rows were found: k."""
        ...

    def whole(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """The rows ``[m, row_size]``, or those at the given places among the k found."""
        ...

    def in_place(
        self, chosen: NDArray[np.intp] | slice | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """``(rows, numbers)``: what ``whole`` gives as row numbers ``[m]`` of an array ``[n, row_size]``, all of it in
        order where None. Nothing is copied where the rows lie in one piece."""
        ...

    def embeddings(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """As ``whole``, but of each row only what a row of kind ``embedding`` is."""
        ...


class EmbeddingStore(Protocol):
    """Rows by id, of one release. Safe to call from many tasks of one event loop at once."""

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """The rows of ``ids`` in one round trip; 12 and "12" are the same id, and an id may stand there twice.

        Raises:
            StoreUnavailableError: no answer within ``timeout_s`` seconds, no connection, refused, or no
                sensible answer.
        """
        ...

    async def ping(self) -> None:
        """Return if the store answers; StoreUnavailableError if not."""
        ...

    async def close(self) -> None:
        """Give back connections and files; the store is not used afterwards."""
        ...
