"""Which store answers for which side, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ranktower.embedding_store.codec import SIDES, RowKind, Rows, Side
from ranktower.embedding_store.local import LocalStore
from ranktower.errors import ReleaseError
from ranktower.release import Manifest
from service.settings import StoreSettings

if TYPE_CHECKING:
    from ranktower.embedding_store.redis import RedisStore

Id = str | int


@dataclass(frozen=True, slots=True)
class Fetched:
    """The rows of one request."""

    user: Rows
    items: Sequence[Rows]
    """One for each store that was asked; no candidate is present in two of them."""


class RowSource(Protocol):
    """The part of an ``EmbeddingStore`` that a request uses."""

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Rows:
        """See ``EmbeddingStore.fetch``."""
        ...


class TieredStore:
    """Asks a second store for what the first lacks: new items are in Redis before they are in a release."""

    def __init__(self, first: RowSource, second: RowSource | None = None) -> None:
        """``first`` is asked for every id, ``second`` only for the ids without a row there."""
        self._first = first
        self._second = second

    async def fetch_each(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Sequence[Rows]:
        """What each store has of all the ids, whether or not another has it too."""
        stores = [store for store in (self._first, self._second) if store is not None]
        return [await store.fetch(side, ids, timeout_s=timeout_s) for store in stores]

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Sequence[Rows]:
        """Rows of each store that was asked; fails when the second is needed and does not answer."""
        near = await self._first.fetch(side, ids, timeout_s=timeout_s)
        if self._second is None or near.present.all():
            return (near,)
        absent = np.flatnonzero(~near.present)
        far = await self._second.fetch(side, [ids[index] for index in absent.tolist()], timeout_s=timeout_s)
        present = np.zeros(len(ids), dtype=np.bool_)
        present[absent[far.present]] = True
        return (near, replace(far, present=present))


class ReleaseStore:
    """The rows of one release: each side from the store that holds it."""

    def __init__(self, settings: StoreSettings, folder: Path, manifest: Manifest) -> None:
        """Open the stores. Connects to nothing yet.

        Raises:
            ReleaseError: a side is to be read from the release's own tables and the release has none.
        """
        self._release = manifest.release
        places = {"user": settings.users.split("+"), "item": settings.items.split("+")}
        for side in SIDES:
            if "local" in places[side] and not manifest.has_table(side):
                place = "+".join(places[side])
                raise ReleaseError(f"{folder}: holds no table of {side}s, and store.{side}s is {place!r}")
        used = {place for chosen in places.values() for place in chosen}
        stores: dict[str, RowSource] = {}
        self._local: LocalStore | None = None
        self._redis: RedisStore | None = None
        if "local" in used:
            stores["local"] = self._local = LocalStore(folder, manifest)
        if "redis" in used:
            stores["redis"] = self._redis = _open_redis(settings, manifest)
        self._users = stores[settings.users]
        self._items = TieredStore(*(stores[place] for place in places["item"]))
        self.one_trip = self._local is None and not settings.redis_cluster
        """Whether both sides come from one server, and so come or fail together."""
        self.timeout_s = settings.timeout_ms / 1000.0
        kinds: dict[str, RowKind] = {"local": manifest.item_rows, "redis": "embedding"}
        self.item_row_kinds = tuple(kinds[place] for place in places["item"])
        """Kinds of the rows of items, by the stores in the order they are asked in."""

    @property
    def waits(self) -> bool:
        """Whether any rows come from another machine, and may be gone from there."""
        return self._redis is not None

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

    def find(self, user_id: Id, item_ids: Sequence[Id]) -> Fetched | None:
        """All rows at once where both sides are local, so that nothing is awaited; else None."""
        if self._local is None or self._redis is not None:
            return None
        return Fetched(self._local.find("user", [user_id]), (self._local.find("item", item_ids),))

    async def fetch_both(self, user_id: Id, item_ids: Sequence[Id], *, timeout_s: float) -> Fetched:
        """All rows of a request in one round trip; only where ``one_trip``.

        Raises:
            StoreUnavailableError: there is no answer within ``timeout_s``.
        """
        if self._redis is None:
            raise RuntimeError("no store holds both sides")
        user, items = await self._redis.fetch_both(user_id, item_ids, timeout_s=timeout_s)
        return Fetched(user, (items,))

    async def fetch_users(self, user_ids: Sequence[Id], *, timeout_s: float) -> Rows:
        """The rows of users; raises as ``fetch_both``."""
        return await self._users.fetch("user", user_ids, timeout_s=timeout_s)

    async def fetch_items(self, item_ids: Sequence[Id], *, timeout_s: float) -> Sequence[Rows]:
        """The rows of items; raises as ``fetch_both``."""
        return await self._items.fetch("item", item_ids, timeout_s=timeout_s)

    async def fetch_items_of_each(self, item_ids: Sequence[Id], *, timeout_s: float) -> Sequence[Rows]:
        """The rows of items that each of the stores has, in the order they are asked in; raises as ``fetch_both``."""
        return await self._items.fetch_each("item", item_ids, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close connections and files."""
        for store in (self._local, self._redis):
            if store is not None:
                await store.close()


def _open_redis(settings: StoreSettings, manifest: Manifest) -> RedisStore:
    # Here, because a service without Redis has no use for the client.
    from ranktower.embedding_store.redis import RedisStore

    return RedisStore(settings.redis_options(), manifest)
