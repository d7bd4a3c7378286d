"""Rows in Redis: ``ranktower:<model>:<release>:u:<id>`` and ``:i:<id>``. The keys are specified in ``docs/formats.md``.

A release is complete in Redis once its manifest key exists; the writer sets that key last of all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import Rows, Side
from ranktower.embedding_store.ids import MAX_ID_BYTES, encode_ids
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.overlay import OverlayPointer
from ranktower.embedding_store.redis_client import RedisOptions, open_reader, open_sync_client, store_errors
from ranktower.release import Manifest, check_model_name, check_release_id, parse_manifest

_SIDE_LETTERS: dict[Side, str] = {"user": "u", "item": "i"}


def row_key_prefix(model: str, release: str, side: Side) -> bytes:
    """What comes before the id in the key of a row."""
    return f"{release_prefix(model, release)}{_SIDE_LETTERS[side]}:".encode()


def time_key_prefix(model: str, release: str, side: Side) -> bytes:
    """What comes before the id in the key of the time at which a row was computed after the release was published."""
    return f"{release_prefix(model, release)}{_SIDE_LETTERS[side]}t:".encode()


def overlay_key(model: str, release: str) -> str:
    """The key of the pointer to the overlay whose rows were written last."""
    return f"{release_prefix(model, release)}delta"


def manifest_key(model: str, release: str) -> str:
    """The key that says that the release is complete."""
    return f"{release_prefix(model, release)}manifest"


def release_prefix(model: str, release: str) -> str:
    """What all keys of a release begin with."""
    return f"ranktower:{check_model_name(model)}:{check_release_id(release)}:"


class RedisStore:
    """The rows of one release in Redis, as an ``EmbeddingStore``."""

    def __init__(self, options: RedisOptions, manifest: Manifest) -> None:
        """Nothing is connected before the first call, so a Redis that is down is an error of that call.

        Raises:
            ConfigError: the URL is none.
        """
        self._options = options
        self._layouts = {side: manifest.redis_layout(side) for side in _SIDE_LETTERS}
        self._prefixes = {side: row_key_prefix(manifest.model, manifest.release, side) for side in _SIDE_LETTERS}
        self._time_prefixes = {side: time_key_prefix(manifest.model, manifest.release, side) for side in _SIDE_LETTERS}
        self._created_s = manifest.created.timestamp()
        self._manifest_key = manifest_key(manifest.model, manifest.release).encode()
        self._overlay_key = overlay_key(manifest.model, manifest.release)
        options.connection_options()
        self._reader = open_reader(options)

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """The rows of ``ids`` in one round trip (one to each node of a cluster, at the same time)."""
        keys, is_id = self._keys(side, ids)
        values = await self._get(keys, timeout_s) if keys else []
        return self._layouts[side].decode_values(_at_ids(values, is_id))

    async def fetch_both(
        self, user_id: str | int, item_ids: Sequence[str | int], *, timeout_s: float
    ) -> tuple[Rows, Rows]:
        """One user's row and the rows of items, all in one round trip; raises as ``fetch``."""
        user_keys, is_user = self._keys("user", [user_id])
        item_keys, is_item = self._keys("item", item_ids)
        keys = [*user_keys, *item_keys]
        values = await self._get(keys, timeout_s) if keys else []
        user_values, item_values = values[: len(user_keys)], values[len(user_keys) :]
        return (
            self._layouts["user"].decode_values(_at_ids(user_values, is_user)),
            self._layouts["item"].decode_values(_at_ids(item_values, is_item)),
        )

    async def fetch_times(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> NDArray[np.float64]:
        """When the rows of ``ids`` were computed, [n]: seconds since the epoch, NaN for an id without a row."""
        keys, is_id = self._keys(side, ids)
        behind = len(self._prefixes[side])
        time_keys = [self._time_prefixes[side] + key[behind:] for key in keys]
        values = await self._get([*keys, *time_keys], timeout_s) if keys else []
        rows = self._layouts[side].decode_values(_at_ids(values[: len(keys)], is_id))
        times = _at_ids(values[len(keys) :], is_id)
        times_s = [float(time) if time and time.isdigit() else self._created_s for time in times]
        return np.where(rows.present, times_s, np.nan)

    async def read_overlay_pointer(self) -> OverlayPointer | None:
        """The overlay whose rows were written last, None where there is none; ReleaseError if it cannot be read."""
        (content,) = await self._get([self._overlay_key.encode()], self._options.timeout_s)
        return None if content is None else OverlayPointer.from_bytes(content, source=self._overlay_key)

    def _keys(self, side: Side, ids: Sequence[str | int]) -> tuple[list[bytes], list[bool] | None]:
        """Keys of the ids that are ids, and where those stand; None where all are."""
        prefix = self._prefixes[side]
        encoded = encode_ids(ids)
        lengths = set(map(len, encoded))
        if not lengths or (min(lengths) > 0 and max(lengths) <= MAX_ID_BYTES):
            return [prefix + one for one in encoded], None
        is_id = [0 < len(one) <= MAX_ID_BYTES for one in encoded]
        return [prefix + one for one in itertools.compress(encoded, is_id)], is_id

    async def is_complete(self) -> bool:
        """Whether the whole release has been written."""
        return (await self._get([self._manifest_key], self._options.timeout_s))[0] is not None

    async def ping(self) -> None:
        """Return if the server answers, on a cluster every master; StoreUnavailableError if not."""
        with store_errors(self._options):
            async with asyncio.timeout(self._options.timeout_s):
                await self._reader.ping()

    async def close(self) -> None:
        """Close every connection."""
        with store_errors(self._options):
            await self._reader.close()

    async def _get(self, keys: Sequence[bytes], timeout_s: float) -> list[bytes | None]:
        with store_errors(self._options):
            async with asyncio.timeout(timeout_s):
                return await self._reader.mget(keys)


def _at_ids(values: list[bytes | None], is_id: list[bool] | None) -> list[bytes | None]:
    """The answers at the places of the ids they belong to, None at the others."""
    if is_id is None:
        return values
    answers = iter(values)
    return [next(answers) if good else None for good in is_id]


class RedisWriter:
    """Writes a release's rows, blocking, in pipelined batches. Every step may be repeated; the bytes stay the same.

    Use it as a context manager. ``write_table`` for each side, then ``finish``.
    """

    def __init__(self, options: RedisOptions, manifest: Manifest) -> None:
        """Connect lazily (a cluster: at once); StoreUnavailableError if that fails."""
        self._options = options
        self._manifest = manifest
        self._manifest_key = manifest_key(manifest.model, manifest.release)
        self._progress_key = f"{release_prefix(manifest.model, manifest.release)}progress"
        with store_errors(options):
            self._client: Any = open_sync_client(options)

    def __enter__(self) -> RedisWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def rows_done(self, side: Side) -> int:
        """How many rows of the side's table an earlier ``write_table`` has written."""
        with store_errors(self._options):
            value = self._client.hget(self._progress_key, side)
        return int(value) if value is not None else 0

    def write(
        self,
        side: Side,
        ids: Sequence[str | int],
        raw: NDArray[np.uint8],
        *,
        times_s: NDArray[np.int64] | None = None,
    ) -> None:
        """Store rows ``raw [n, row_size]`` under ``ids`` [n], in one pipeline.

        Args:
            times_s: [n], when the rows were computed, in seconds since the epoch; None: with the release.

        Raises:
            ValueError: an id is none, or the rows are not of this release.
        """
        layout = self._manifest.redis_layout(side)
        encoded = encode_ids(ids)
        if raw.shape != (len(encoded), layout.row_size) or not layout.valid(raw).all():
            raise ValueError(f"raw: not {len(encoded)} {side} rows of release {self._manifest.release}")
        if not all(0 < len(one) <= MAX_ID_BYTES for one in encoded):
            raise ValueError(f"ids: each must have 1 to {MAX_ID_BYTES} bytes and no NUL")
        prefix = row_key_prefix(self._manifest.model, self._manifest.release, side)
        with store_errors(self._options):
            pipeline = (
                self._client.pipeline(transaction=False) if not self._options.cluster else self._client.pipeline()
            )
            if times_s is not None:  # first, so that no row of a delta is ever taken for one of the release
                time_prefix = time_key_prefix(self._manifest.model, self._manifest.release, side)
                for one, time_s in zip(encoded, times_s.tolist(), strict=True):
                    pipeline.set(time_prefix + one, time_s)
            for one, row in zip(encoded, raw, strict=True):
                pipeline.set(prefix + one, row.tobytes())
            pipeline.execute()

    def write_table(
        self,
        side: Side,
        table: LocalTable,
        *,
        batch_size: int = 1000,
        on_batch: Callable[[int], object] = lambda num_rows: None,
    ) -> None:
        """Copy a local table, or the rest of it, in bounded memory; ``on_batch`` is told the rows of each batch."""
        done = self.rows_done(side)
        on_batch(done)
        row_size = self._manifest.redis_layout(side).row_size
        for ids, raw in table.batches(batch_size, start=done):
            self.write(side, ids, raw[:, :row_size])  # a row's beginning is the row of its embedding alone
            done += len(ids)
            with store_errors(self._options):  # only once every row of the batch has been acknowledged
                self._client.hset(self._progress_key, side, done)
            on_batch(len(ids))

    def read_overlay_pointer(self) -> OverlayPointer | None:
        """Which overlay's rows have been written, None where none have."""
        key = overlay_key(self._manifest.model, self._manifest.release)
        with store_errors(self._options):
            content = self._client.get(key)
        return None if content is None else OverlayPointer.from_bytes(content, source=key)

    def write_overlay_pointer(self, pointer: OverlayPointer) -> None:
        """Say which overlay's rows have been written."""
        with store_errors(self._options):
            self._client.set(overlay_key(self._manifest.model, self._manifest.release), pointer.to_bytes())

    def finish(self) -> None:
        """Declare the release complete."""
        with store_errors(self._options):
            self._client.set(self._manifest_key, self._manifest.model_dump_json())
            self._client.delete(self._progress_key)

    def is_complete(self) -> bool:
        """Whether this very release has been written and declared complete."""
        with store_errors(self._options):
            content = self._client.get(self._manifest_key)
        return content is not None and parse_manifest(content, source=self._manifest_key) == self._manifest
