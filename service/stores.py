"""Which store answers for which side, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.local import LocalStore
from ranktower.embedding_store.protocol import Rows, Side
from ranktower.embedding_store.redis import RedisStore
from ranktower.errors import ReleaseError
from ranktower.release import Manifest
from service.settings import StoreSettings


class RowSource(Protocol):
    """The part of an ``EmbeddingStore`` that a request uses."""

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """See ``EmbeddingStore.fetch``."""
        ...


class TieredStore:
    """Asks the second store for what the first lacks: new items are in Redis before they are in a release."""

    def __init__(self, first: RowSource, second: RowSource) -> None:
        """``first`` is asked for every id, ``second`` only for the ids without a row there."""
        self._first = first
        self._second = second

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """Rows of both stores in the order of ``ids``; fails when the second store is needed and does not answer."""
        near = await self._first.fetch(side, ids, timeout_s=timeout_s)
        if near.present.all():
            return near
        absent = np.flatnonzero(~near.present)
        far = await self._second.fetch(side, [ids[index] for index in absent.tolist()], timeout_s=timeout_s)
        num_rejected = near.num_rejected + far.num_rejected
        if not len(far.raw):
            return Rows(raw=near.raw, present=near.present, num_rejected=num_rejected)
        present = near.present.copy()
        from_far = np.zeros(len(ids), dtype=np.bool_)
        from_far[absent[far.present]] = True
        present |= from_far
        raw = np.empty((int(present.sum()), far.raw.shape[1]), dtype=np.uint8)
        raw[~from_far[present]] = near.raw
        raw[from_far[present]] = far.raw
        return Rows(raw=raw, present=present, num_rejected=num_rejected)


class ReleaseStore:
    """The rows of one release: each side from the store that holds it."""

    def __init__(self, settings: StoreSettings, folder: Path, manifest: Manifest) -> None:
        """Open the stores. Connects to nothing yet.

        Raises:
            ReleaseError: a side is to be read from the release's own tables and the release has none.
        """
        self._release = manifest.release
        self._local: LocalStore | None = None
        self._redis: RedisStore | None = None
        places = {"user": settings.users, "item": settings.items}
        for side in SIDES:
            if "local" in places[side] and not manifest.has_table(side):
                raise ReleaseError(f"{folder}: holds no table of {side}s, and store.{side}s is {places[side]!r}")
        if any("local" in place for place in places.values()):
            self._local = LocalStore(folder, manifest)
        if any("redis" in place for place in places.values()):
            self._redis = RedisStore(settings.redis_options(), manifest)
        self.timeout_s = settings.timeout_ms / 1000.0
        self.waits = self._redis is not None
        """Whether a fetch may wait for another machine, so that two of them are worth overlapping."""
        self._users = self._choose(settings.users)
        self._items = self._choose(settings.items)

    def _choose(self, place: str) -> RowSource:
        stores: list[RowSource] = []
        if "local" in place and self._local is not None:
            stores.append(self._local)
        if "redis" in place and self._redis is not None:
            stores.append(self._redis)
        if len(stores) == 1:
            return stores[0]
        return TieredStore(*stores)

    async def check(self) -> None:
        """Return if every store answers and holds this release whole.

        Raises:
            StoreUnavailableError: a store does not answer.
            ReleaseError: the release is not, or not yet, complete in Redis.
        """
        if self._redis is not None:
            await self._redis.ping()
            if not await self._redis.is_complete():
                raise ReleaseError(f"{self._release}: not complete in Redis")

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """Rows of one side; StoreUnavailableError if there is no answer within ``timeout_s``."""
        return await (self._users if side == "user" else self._items).fetch(side, ids, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close connections and files."""
        for store in (self._local, self._redis):
            if store is not None:
                await store.close()
