"""Releases for the Redis tests: each test has one of its own, so that all can share a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from ranktower.embedding_store.redis import RedisStore, RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.release import Manifest


@pytest.fixture(scope="session")
def release_ids() -> Iterator[str]:
    """Release ids that no other test has."""
    return iter(f"20261123T10{number // 60:02d}{number % 60:02d}Z-0123abcd" for number in range(3600))


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest], release_ids: Iterator[str]) -> Manifest:
    """A release of the test's own."""
    return make_manifest(release=next(release_ids))


@pytest.fixture
async def store(redis_server: Any, manifest: Manifest) -> AsyncIterator[RedisStore]:
    """The store of that release on the shared server."""
    store = RedisStore(RedisOptions(redis_server.url), manifest)
    yield store
    await store.close()


@pytest.fixture(scope="session")
def write_items() -> Callable[..., None]:
    """``write_items(options, manifest, ids, arrays)`` stores item rows and declares the release complete."""

    def write(options: RedisOptions, manifest: Manifest, ids: list[Any], arrays: dict[str, Any]) -> None:
        with RedisWriter(options, manifest) as writer:
            writer.write("item", ids, manifest.redis_layout("item").encode(arrays))
            writer.finish()

    return write
