"""Where the current release's id is read from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ranktower.registry import Registry
from service.settings import Settings

if TYPE_CHECKING:
    from ranktower.embedding_store.redis import PointerWatch


class Pointer:
    """The registry's file, or the store's Redis."""

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet."""
        self._redis: PointerWatch | None = None
        if settings.release.pointer == "redis":
            # Here, because a service without Redis has no use for the client.
            from ranktower.embedding_store.redis import PointerWatch

            self._redis = PointerWatch(settings.store.redis_options(), settings.release.model)
        self._registry = Registry(settings.release.registry)
        self._model = settings.release.model

    async def read(self) -> str | None:
        """Id of the promoted release, None if there is none.

        Raises:
            ReleaseError: there is a pointer, but it cannot be read.
            StoreUnavailableError: Redis does not answer.
        """
        # The file in a thread, because the registry may lie on a network file system.
        pointer = (
            await self._redis.read() if self._redis else await asyncio.to_thread(self._registry.current, self._model)
        )
        return pointer.release if pointer else None

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis:
            await self._redis.close()
