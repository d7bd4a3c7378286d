"""The releases that are open: each once, whatever it is open for, and closed when nothing needs it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from weakref import WeakValueDictionary

from ranktower.errors import ReleaseError
from service.loaded import LoadedRelease, load_release
from service.overlays import Overlays
from service.settings import Settings
from service.verification import LargeFileChecks, ReleaseKey


class OpenReleases:
    """Opens and closes releases, and has the large files of the open ones verified. For one event loop."""

    def __init__(
        self, settings: Settings, overlays: Overlays, on_damage: Callable[[LoadedRelease, ReleaseError], None]
    ) -> None:
        """``on_damage(release, error)`` is called when an open release turns out to be damaged. It is open no longer
        then, but for the requests that hold it."""
        self._settings = settings
        self._overlays = overlays
        self._on_damage = on_damage
        self._open: dict[ReleaseKey, LoadedRelease] = {}
        self._doubted: set[ReleaseKey] = set()
        self._turns: WeakValueDictionary[ReleaseKey, asyncio.Lock] = WeakValueDictionary()
        """A lock lives for as long as somebody holds it or waits for it."""
        self._closing: set[asyncio.Task[None]] = set()
        self._checks = LargeFileChecks(settings.release, self._take_out)

    async def get(self, key: ReleaseKey) -> LoadedRelease:
        """The release, which is opened and proven if it is not open.

        Raises:
            ReleaseError: it cannot be served: see ``load_release``; or it is open, but its rows are gone from Redis.
            StoreUnavailableError: the store does not answer.
        """
        # Two roles may ask for one release at a time.
        async with self._turns.setdefault(key, asyncio.Lock()):
            release = self._open.get(key)
            if release is None:
                release = await self._load(key)
            else:
                await release.store.check()
            if self._open.get(key) is not release:
                raise ReleaseError(f"{key[1]}: was found damaged just now")
            return release

    async def _load(self, key: ReleaseKey) -> LoadedRelease:
        model, release = key
        # A release that was found damaged while it was served must not be served again on trust.
        verify_all = self._settings.release.verify == "before_serving" or key in self._doubted
        loaded = await load_release(
            self._settings, release, model=model, verify_all=verify_all, beside=bool(self._open)
        )
        self._doubted.discard(key)
        self._open[key] = loaded
        if not verify_all:
            self._checks.start(loaded.manifest)
        await self._overlays.follow(loaded)
        return loaded

    def all(self) -> Sequence[LoadedRelease]:
        """Those that are open just now."""
        return tuple(self._open.values())

    def keep(self, needed: Collection[ReleaseKey | None]) -> None:
        """Close all others, each once the last request has let go of it."""
        for key in self._open.keys() - set(needed):
            self._checks.cancel(key)
            self._close(self._open.pop(key))

    async def stop(self) -> None:
        """Close everything; called when no request is under way."""
        await self._checks.stop()
        self.keep(())
        if self._closing:
            await asyncio.wait(self._closing)

    def _take_out(self, key: ReleaseKey, error: ReleaseError) -> None:
        release = self._open.pop(key)
        self._doubted.add(key)
        self._close(release)
        self._on_damage(release, error)

    def _close(self, release: LoadedRelease) -> None:
        task = asyncio.get_running_loop().create_task(release.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
