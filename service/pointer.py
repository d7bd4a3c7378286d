"""Where the pointer to the releases to serve is read from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ranktower.pointer import Pointer
from ranktower.registry import Registry
from service.settings import Settings

if TYPE_CHECKING:
    from ranktower.embedding_store.redis_releases import PointerWatch


class PointerSource:
    """The registry's file, or the store's Redis."""

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet."""
        self._redis: PointerWatch | None = None
        if settings.release.pointer == "redis":
            # Here, because a service without Redis has no use for the client.
            from ranktower.embedding_store.redis_releases import PointerWatch

            self._redis = PointerWatch(settings.store.redis_options(), settings.release.model)
        self._registry = Registry(settings.release.registry)
        self._model = settings.release.model

    async def read(self) -> Pointer | None:
        """The model's pointer, None if no release was ever promoted.

        Raises:
            ReleaseError: there is a pointer, but it cannot be read.
            StoreUnavailableError: Redis does not answer.
        """
        if self._redis:
            return await self._redis.read()
        # In a thread, because the registry may lie on a network file system.
        return await asyncio.to_thread(self._registry.current, self._model)

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis:
            await self._redis.close()
