"""Which release is served: follows the pointer, swaps between requests, keeps the last one for a roll back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from ranktower.errors import ReleaseError, StoreError
from service.errors import ReleaseUnavailableError
from service.golden import GoldenMismatchError
from service.loaded import LoadedRelease, load_release
from service.metrics import Metrics
from service.pointer import Pointer
from service.settings import Settings
from service.verification import LargeFileChecks

logger = logging.getLogger(__name__)

Reason = Literal["loading", "no_release", "release_invalid", "golden_mismatch", "store_unavailable"]

_TEXTS: dict[Reason, str] = {
    "loading": "a release is being loaded",
    "no_release": "no release has been promoted",
    "release_invalid": "the promoted release is damaged, incomplete or of another format",
    "golden_mismatch": "the promoted release does not reproduce its golden scores",
    "store_unavailable": "the embedding store does not answer",
}


@dataclass(frozen=True)
class Refusal:
    """Why the promoted release is not served. ``release`` is None where not even the pointer could be read."""

    release: str | None
    reason: Reason


class Releases:
    """The release being served, the one before it, and the task that follows the pointer."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Nothing is read before ``start``."""
        self._settings = settings
        self._metrics = metrics
        self._pointer = Pointer(settings)
        self._current: LoadedRelease | None = None
        self._previous: LoadedRelease | None = None
        self.refusal: Refusal | None = Refusal(None, "loading")
        self._retry_at = 0.0
        self._wait_s = settings.release.poll_ms / 1000.0
        self._watcher: asyncio.Task[None] | None = None
        self._stopped = False
        self._background: set[asyncio.Task[None]] = set()
        self._checks = LargeFileChecks(settings.release, self._take_out)
        self._doubted: set[str] = set()

    def current(self) -> LoadedRelease:
        """The release to serve now; a request asks once and keeps it. ReleaseUnavailableError if there is none."""
        if self._current is None:
            reason = self.refusal.reason if self.refusal else "loading"
            raise ReleaseUnavailableError(f"not ready: {_TEXTS[reason]}", reason)
        return self._current

    def start(self) -> None:
        """Follow the pointer from now on, in a task of the running loop, until ``stop``."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._watch_again)

    async def stop(self) -> None:
        """Follow the pointer no longer, and close everything; called when no request is under way."""
        self._stopped = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self._checks.stop()
        if self._background:
            await asyncio.wait(self._background)
        for release in (self._current, self._previous):
            if release is not None:
                await release.close()
        self._current = self._previous = None
        await self._pointer.close()

    async def _watch(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(self._settings.release.poll_ms / 1000.0)

    def _watch_again(self, watcher: asyncio.Task[None]) -> None:
        """A fault of this program must not leave the service on an old release for ever without a word."""
        if watcher.cancelled():
            return
        error = watcher.exception()
        logger.error("following the release pointer failed; trying again", exc_info=error)
        watcher.get_loop().call_later(self._settings.release.retry_max_ms / 1000.0, self._start_again)

    def _start_again(self) -> None:
        if not self._stopped:
            self.start()

    async def poll(self) -> None:
        """Look at the pointer once, and load and serve what it names."""
        try:
            wanted = await self._pointer.read()
        except StoreError as error:
            self._refuse(None, "store_unavailable", error)
            return
        except (ReleaseError, OSError) as error:
            self._refuse(None, "release_invalid", error)
            return
        if wanted is None:
            self._refuse(None, "no_release", None)
        elif self._current is not None and wanted == self._current.release:
            self.refusal = None
        elif self._previous is not None and wanted == self._previous.release:
            await self._go_back(self._previous)
        elif self._may_try(wanted):
            await self._load(wanted)

    async def _load(self, wanted: str) -> None:
        # A release that was found damaged while it was served must not be served again on trust.
        verify_all = self._settings.release.verify == "before_serving" or wanted in self._doubted
        try:
            loaded = await load_release(self._settings, wanted, verify_all=verify_all)
        except StoreError as error:
            self._refuse(wanted, "store_unavailable", error)
        except GoldenMismatchError as error:
            self._refuse(wanted, "golden_mismatch", error)
        except ReleaseError as error:
            self._refuse(wanted, "release_invalid", error)
        else:
            self._doubted.discard(wanted)
            self._serve(loaded)
            if not verify_all:
                self._checks.start(loaded.manifest)

    async def _go_back(self, previous: LoadedRelease) -> None:
        """Serve the release before again: it is open and proven, only its rows in Redis may be gone since."""
        try:
            await previous.store.check()
        except StoreError as error:
            self._refuse(previous.release, "store_unavailable", error)
        except ReleaseError as error:
            self._refuse(previous.release, "release_invalid", error)
        else:
            if self._previous is previous:  # it may have been found damaged meanwhile
                self._serve(previous)

    def _serve(self, release: LoadedRelease) -> None:
        """Swap: from here on new requests get ``release``, those under way keep theirs."""
        dropped = self._previous if self._previous is not release else None
        self._previous, self._current = self._current, release
        self.refusal = None
        self._announce(release)
        if dropped is not None:
            self._drop(dropped)

    def _announce(self, release: LoadedRelease) -> None:
        self._metrics.serve_release(release.manifest.model, release.release, release.manifest.created.timestamp())
        logger.info("release served", extra={"fields": {"release": release.release}})

    def _drop(self, release: LoadedRelease) -> None:
        """Close a release that no new request gets, once the last one under way let go."""
        self._checks.cancel(release.release)
        self._in_background(release.close())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _return_to(self, previous: LoadedRelease) -> None:
        """Serve the release before a damaged one, if its rows are still there; the refusal goes on being shown."""
        refusal = self.refusal
        await self._go_back(previous)
        if self._current is previous:
            self.refusal = refusal

    def _take_out(self, release: str, error: ReleaseError) -> None:
        """A release that is open was found damaged: no new request gets it, and the one before is served again."""
        self._doubted.add(release)
        current, previous = self._current, self._previous
        if current is not None and current.release == release:
            self._current = None
            self._drop(current)
            if previous is None or previous.store.waits:
                self._metrics.serve_nothing()
            else:
                self._current, self._previous = previous, None
                self._announce(previous)
            self._refuse(release, "release_invalid", error)
            if previous is not None and previous.store.waits:
                self._in_background(self._return_to(previous))
        elif previous is not None and previous.release == release:
            # It is not the promoted one, so it is no refusal to show; it only cannot be rolled back to unverified.
            self._previous = None
            self._drop(previous)
            fields = {"release": release, "reason": "release_invalid", "detail": str(error)}
            logger.warning("release refused", extra={"fields": fields})
            self._metrics.refused.labels("release_invalid").inc()

    def _may_try(self, wanted: str) -> bool:
        """A refused release is tried again, for it may be mended, but ever less often: verifying it is work."""
        return self.refusal is None or self.refusal.release != wanted or time.monotonic() >= self._retry_at

    def _refuse(self, release: str | None, reason: Reason, error: Exception | None) -> None:
        refusal = Refusal(release, reason)
        poll_s = self._settings.release.poll_ms / 1000.0
        if refusal != self.refusal:
            logger.warning(
                "release refused" if release else "no release to serve",
                extra={"fields": {"release": release, "reason": reason, "detail": str(error) if error else None}},
            )
            self._wait_s = poll_s
        elif reason != "store_unavailable":
            self._wait_s = min(2 * self._wait_s, self._settings.release.retry_max_ms / 1000.0)
        if release is not None:
            self._metrics.refused.labels(reason).inc()
        self.refusal = refusal
        self._retry_at = time.monotonic() + self._wait_s
