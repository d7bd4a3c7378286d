"""Which store answers for which side, as the settings say."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import SIDES, RowKind, Rows, Side
from ranktower.embedding_store.joined_ids import Id
from ranktower.embedding_store.local import LocalStore, RowTable
from ranktower.embedding_store.overlay import Overlay, OverlayPointer
from ranktower.embedding_store.protocol import StoredRows
from ranktower.errors import ReleaseError
from ranktower.release import Manifest
from service.settings import StoreSettings

if TYPE_CHECKING:
    from ranktower.embedding_store.redis import RedisStore


@dataclass(frozen=True, slots=True)
class Fetched:
    """The rows of one request."""

    user: Rows
    items: Sequence[StoredRows]
    """One for each store that was asked; no candidate is present in two of them."""


class TimeSource(Protocol):
    """What knows how old rows are."""

    async def fetch_times(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> NDArray[np.float64]:
        """When the rows of ``ids`` were computed, [n]: seconds since the epoch, NaN for an id without a row."""
        ...


class RowSource(TimeSource, Protocol):
    """The part of an ``EmbeddingStore`` that a request uses."""

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Rows:
        """See ``EmbeddingStore.fetch``."""
        ...


class LazySource(TimeSource, Protocol):
    """As ``RowSource``; the rows may be read later."""

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> StoredRows:
        """See ``EmbeddingStore.fetch``."""
        ...


class LocatingStore:
    """The local tables as a ``LazySource``."""

    def __init__(self, store: LocalStore) -> None:
        """``store`` stays the caller's to close."""
        self._store = store

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> StoredRows:
        """Where the rows are; ``timeout_s`` is not needed, for nothing is waited for."""
        return self._store.locate(side, ids)

    async def fetch_times(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> NDArray[np.float64]:
        """See ``TimeSource.fetch_times``."""
        return self._store.find_times(side, ids)


class TieredStore:
    """Asks a second store for what the first lacks: new items are in Redis before they are in a release."""

    def __init__(self, first: LazySource, second: RowSource | None = None) -> None:
        """``first`` is asked for every id, ``second`` only for the ids without a row there."""
        self._first = first
        self._second = second

    async def fetch_each(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Sequence[StoredRows]:
        """What each store has of all the ids, whether or not another has it too."""
        stores = [store for store in (self._first, self._second) if store is not None]
        return [await store.fetch(side, ids, timeout_s=timeout_s) for store in stores]

    async def fetch(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> Sequence[StoredRows]:
        """Rows of each store that was asked; fails when the second is needed and does not answer."""
        near = await self._first.fetch(side, ids, timeout_s=timeout_s)
        if self._second is None or near.present.all():
            return (near,)
        absent = np.flatnonzero(~near.present)
        far = await self._second.fetch(side, [ids[index] for index in absent.tolist()], timeout_s=timeout_s)
        present = np.zeros(len(ids), dtype=np.bool_)
        present[absent[far.present]] = True
        return (near, replace(far, present=present))

    async def fetch_times(self, side: Side, ids: Sequence[Id], *, timeout_s: float) -> NDArray[np.float64]:
        """When the rows that ``fetch`` gives were computed; fails as it does."""
        times_s = await self._first.fetch_times(side, ids, timeout_s=timeout_s)
        absent = np.flatnonzero(np.isnan(times_s)).tolist()
        if self._second is not None and absent:
            times_s[absent] = await self._second.fetch_times(
                side, [ids[index] for index in absent], timeout_s=timeout_s
            )
        return times_s

    async def fetch_times_of_each(
        self, side: Side, ids: Sequence[Id], *, timeout_s: float
    ) -> Sequence[NDArray[np.float64]]:
        """When each store's rows were computed, whether or not another has the id too."""
        stores = [store for store in (self._first, self._second) if store is not None]
        return [await store.fetch_times(side, ids, timeout_s=timeout_s) for store in stores]


class ReleaseStore:
    """The rows of one release: each side from the store that holds it."""

    def __init__(self, settings: StoreSettings, folder: Path, manifest: Manifest) -> None:
        """Open the stores. Connects to nothing yet.

        Raises:
            ReleaseError: a side is to be read from the release's own tables and the release has none.
        """
        self._release = manifest.release
        self._created_s = manifest.created.timestamp()
        places = {"user": settings.users.split("+"), "item": settings.items.split("+")}
        for side in SIDES:
            if "local" in places[side] and not manifest.has_table(side):
                place = "+".join(places[side])
                raise ReleaseError(f"{folder}: holds no table of {side}s, and store.{side}s is {place!r}")
        used = {place for chosen in places.values() for place in chosen}
        stores: dict[str, RowSource] = {}
        lazy: dict[str, LazySource] = {}
        self._local: LocalStore | None = None
        self._redis: RedisStore | None = None
        if "local" in used:
            stores["local"] = self._local = LocalStore(folder, manifest)
            lazy["local"] = LocatingStore(self._local)
        if "redis" in used:
            stores["redis"] = lazy["redis"] = self._redis = _open_redis(settings, manifest)
        self._users = stores[settings.users]
        nearest, *further = places["item"]
        self._items = TieredStore(lazy[nearest], *(stores[place] for place in further))
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

    def find(self, user_id: Id, item_ids: Sequence[Id]) -> Fetched:
        """All rows of a request at once; only where nothing ``waits``."""
        if self._local is None or self._redis is not None:
            raise RuntimeError("some rows come from another machine")
        return Fetched(self._local.find("user", [user_id]), (self._local.locate("item", item_ids),))

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

    async def fetch_items(self, item_ids: Sequence[Id], *, timeout_s: float) -> Sequence[StoredRows]:
        """The rows of items; raises as ``fetch_both``."""
        return await self._items.fetch("item", item_ids, timeout_s=timeout_s)

    async def fetch_items_of_each(self, item_ids: Sequence[Id], *, timeout_s: float) -> Sequence[StoredRows]:
        """The rows of items that each of the stores has, in the order they are asked in; raises as ``fetch_both``."""
        return await self._items.fetch_each("item", item_ids, timeout_s=timeout_s)

    async def ages_s(self, item_ids: Sequence[Id], *, timeout_s: float) -> NDArray[np.float64]:
        """Seconds since the rows of items were computed, [n], NaN for one without a row; raises as ``fetch_both``."""
        times_s = await self._items.fetch_times("item", item_ids, timeout_s=timeout_s)
        return np.maximum(time.time() - times_s, 0.0)

    async def unchanged_of_each(
        self, user_ids: Sequence[Id], item_ids: Sequence[Id], *, timeout_s: float
    ) -> Sequence[NDArray[np.bool_]]:
        """For each store of items, which pairs (user k, item k) have the rows that the release was published with."""
        user_times_s = await self._users.fetch_times("user", user_ids, timeout_s=timeout_s)
        item_times_s = await self._items.fetch_times_of_each("item", item_ids, timeout_s=timeout_s)
        return [np.maximum(user_times_s, times_s) <= self._created_s for times_s in item_times_s]

    def example_users(self, num_users: int) -> list[str]:
        """At most so many different ids of the release's own table of users, others each time; none without a table."""
        table = self._local.tables.get("user") if self._local is not None else None
        if table is None:
            return []
        return table.ids_at(np.array(random.sample(range(len(table)), min(num_users, len(table))), dtype=np.int64))

    def cover(self, overlay: Overlay | None) -> Mapping[Side, RowTable]:
        """What ``use_overlay`` takes. This is work; any thread may do it."""
        return self._local.cover(overlay) if self._local is not None else {}

    def use_overlay(self, overlay: Overlay | None, covered: Mapping[Side, RowTable]) -> None:
        """Put an overlay in front of the release's tables, where those are used; None takes it away."""
        if self._local is not None:
            self._local.use_overlay(overlay, covered)

    async def served_overlay(self) -> OverlayPointer | None:
        """The overlay whose rows all stores give, so the earlier of two, and None where a store has none; raises as
        ``fetch_both``, or ReleaseError."""
        pointers: list[OverlayPointer | None] = []
        if self._local is not None:
            pointers.append(self._local.overlay.pointer if self._local.overlay is not None else None)
        if self._redis is not None:
            pointers.append(await self._redis.read_overlay_pointer())
        found = [pointer for pointer in pointers if pointer is not None]
        return min(found, key=lambda pointer: pointer.created_s) if len(found) == len(pointers) else None

    async def close(self) -> None:
        """Close connections and files."""
        for store in (self._local, self._redis):
            if store is not None:
                await store.close()


def _open_redis(settings: StoreSettings, manifest: Manifest) -> RedisStore:
    # Here, because a service without Redis has no use for the client.
    from ranktower.embedding_store.redis import RedisStore

    return RedisStore(settings.redis_options(), manifest)
