"""Which releases are in Redis, and the pointer to the ones that are served. The keys: ``docs/formats.md``.

All but ``PointerWatch`` is for the jobs, and blocks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ranktower.embedding_store.redis import manifest_key, release_prefix
from ranktower.embedding_store.redis_client import RedisOptions, open_reader, open_sync_client, store_errors
from ranktower.errors import ReleaseError
from ranktower.pointer import Pointer
from ranktower.release import check_model_name, is_release_id

_SCAN_BATCH, _UNLINK_BATCH = 10_000, 1000
# For SCAN, which knows no other patterns. Neither a model's name nor a release id holds a sign that they give a meaning
# to, and an id within a row's key is no release: it does not stand where one does.
_ANY_RELEASE = "?" * len("YYYYMMDDTHHMMSSZ-xxxxxxxx")
_NO_ROW = "[^ui]*"


def pointer_key(model: str) -> str:
    """The key of the pointer to the releases that are served."""
    return f"ranktower:{check_model_name(model)}:current"


class PointerWatch:
    """Reads a model's pointer in Redis, for a service that follows it."""

    def __init__(self, options: RedisOptions, model: str) -> None:
        """Nothing is connected before the first ``read``."""
        self._options = options
        self._key = pointer_key(model)
        options.connection_options()
        self._reader = open_reader(options)

    async def read(self) -> Pointer | None:
        """The pointer, None before the first promote; StoreUnavailableError, or ReleaseError for a broken pointer."""
        with store_errors(self._options):
            async with asyncio.timeout(self._options.timeout_s):
                (content,) = await self._reader.mget([self._key.encode()])
        return None if content is None else Pointer.from_bytes(content, source=self._key)

    async def close(self) -> None:
        """Close the connection."""
        with store_errors(self._options):
            await self._reader.close()


def read_pointer(options: RedisOptions, model: str) -> Pointer | None:
    """The pointer in Redis, None before the first promote."""
    key = pointer_key(model)
    with _client(options) as client:
        content = client.get(key)
    return None if content is None else Pointer.from_bytes(content, source=key)


def check_complete(options: RedisOptions, model: str, release: str) -> None:
    """Return if the whole release has been written to Redis, ReleaseError if not."""
    with _client(options) as client:
        if not client.exists(manifest_key(model, release)):
            raise ReleaseError(f"redis {options.address}: release {release!r} of model {model!r} is not complete")


def write_pointer(options: RedisOptions, model: str, pointer: Pointer) -> None:
    """Promote in Redis: one SET, so that a reader sees the old pointer or the new one.

    Raises:
        ReleaseError: the release is not complete in Redis.
    """
    check_complete(options, model, pointer.release)
    with _client(options) as client:
        client.set(pointer_key(model), pointer.to_bytes())


def list_releases(options: RedisOptions, model: str) -> list[str]:
    """Releases of which anything is in Redis, complete or not, oldest first. Redis looks at every key for this."""
    prefix = f"ranktower:{check_model_name(model)}:"
    with _client(options) as client:
        keys = list(client.scan_iter(match=f"{prefix}{_ANY_RELEASE}:{_NO_ROW}", count=_SCAN_BATCH))
    found = {key.decode().removeprefix(prefix).split(":")[0] for key in keys}
    return sorted(filter(is_release_id, found))


def delete_release(options: RedisOptions, model: str, release: str) -> int:
    """Delete all keys of a release; returns how many there were, without those that say how complete it is.

    The manifest's key goes first: a release that is half deleted is not complete. The last to go is a key that keeps it
    in ``list_releases`` until then, so that whoever is killed in between leaves nothing behind for ever.

    Raises:
        ReleaseError: the model's pointer in Redis names the release.
    """
    pointer = read_pointer(options, model)
    if pointer is not None and (model, release) in pointer.names(model):
        raise ReleaseError(f"redis {options.address}: release {release!r} of model {model!r} is named by the pointer")
    prefix = release_prefix(model, release)
    mark = f"{prefix}deleting".encode()
    num_deleted = 0
    with _client(options) as client:
        client.set(mark, b"")
        client.unlink(f"{prefix}manifest", f"{prefix}progress")
        keys = (key for key in client.scan_iter(match=f"{prefix}*", count=_SCAN_BATCH) if key != mark)
        while batch := list(itertools.islice(keys, _UNLINK_BATCH)):
            num_deleted += client.unlink(*batch)
        client.unlink(mark)
    return num_deleted


@contextmanager
def _client(options: RedisOptions) -> Iterator[Any]:
    with store_errors(options):
        client = open_sync_client(options)
        try:
            yield client
        finally:
            client.close()
