"""What the service asks of an embedding store, whichever one it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from ranktower.embedding_store.codec import Rows, Side
from ranktower.errors import StoreError

__all__ = ["EmbeddingStore", "FailureKind", "Rows", "Side", "StoreUnavailableError"]

FailureKind = Literal["timeout", "connection", "protocol", "auth"]


class StoreUnavailableError(StoreError):
    """A store did not answer. ``kind`` is the label of ``ranktower_store_errors_total``; the text has no secret."""

    def __init__(self, problem: str, *, kind: FailureKind) -> None:
        """``problem`` names the store's address and what happened."""
        super().__init__(problem)
        self.kind: FailureKind = kind


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
