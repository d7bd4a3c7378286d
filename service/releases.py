"""Which releases are served: follows the pointer, swaps between requests, keeps the last one for a roll back."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ranktower.errors import ReleaseError, StoreError
from ranktower.pointer import VARIATION_ROLES, VariationRole
from service.errors import ReleaseUnavailableError
from service.follower import Follower, Reason, Refusal
from service.loaded import LoadedRelease
from service.metrics import Metrics, Role
from service.open_releases import OpenReleases
from service.overlays import Overlays
from service.pointer import PointerSource
from service.recurring import Recurring
from service.settings import Settings
from service.trial import Trial

logger = logging.getLogger(__name__)

_TEXTS: dict[Reason, str] = {
    "loading": "a release is being loaded",
    "no_release": "no release has been promoted",
    "release_invalid": "the promoted release is damaged, incomplete or of another format",
    "golden_mismatch": "the promoted release does not reproduce its golden scores",
    "store_unavailable": "the embedding store does not answer",
}


class Releases:
    """The release being served, the one before it, canary and shadow, and the tasks that follow the pointers."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Nothing is read before ``start``."""
        self._settings = settings.release
        self._metrics = metrics
        self._pointer = PointerSource(settings)
        self._overlays = Overlays(settings.release, metrics)
        self._opened = OpenReleases(settings, self._overlays, self._take_out)
        self._current: LoadedRelease | None = None
        self._previous: LoadedRelease | None = None
        self._follower = Follower("current", self._opened, self._settings, metrics, self._serve)
        self._follower.refusal = Refusal(None, "loading")
        self._trials: dict[VariationRole, Trial] = {
            role: Trial(role, self._opened, self._settings, metrics) for role in VARIATION_ROLES
        }
        # Apart, because a large overlay takes its time to open, and a promotion or rollback must not wait for it.
        self._recurring = [
            self._recur("following the release pointer", self._look),
            self._recur("following the overlays", self._look_at_overlays),
        ]
        self._returning: asyncio.Task[None] | None = None

    def _recur(self, what: str, work: Callable[[], Awaitable[None]]) -> Recurring:
        every_s, retry_s = self._settings.poll_ms / 1000.0, self._settings.retry_max_ms / 1000.0
        return Recurring(what, work, every_s=every_s, retry_s=retry_s)

    @property
    def refusal(self) -> Refusal | None:
        """Why the promoted release is not the one served; None where it is."""
        return self._follower.refusal

    @property
    def is_serving(self) -> bool:
        """Whether ``current`` has one to give."""
        return self._current is not None

    def current(self) -> LoadedRelease:
        """The release to serve now; a request asks once and keeps it. ReleaseUnavailableError if there is none."""
        if self._current is None:
            reason = self.refusal.reason if self.refusal else "loading"
            raise ReleaseUnavailableError(f"not ready: {_TEXTS[reason]}", reason)
        return self._current

    def of_user(self, user_id: str | int) -> LoadedRelease:
        """The release for a request of this user: the canary's for its share of the users. Raises as ``current``."""
        current = self.current()
        trial = self._trials["canary"]
        if trial.release is None or trial.variation is None or not trial.variation.has_user(user_id):
            return current
        return trial.release

    def served(self) -> dict[str, LoadedRelease]:
        """All that answer, by their ids: the current one, and the canary. Raises as ``current``."""
        return {release.release: release for release in (self.current(), self._trials["canary"].release) if release}

    def role_of(self, release: LoadedRelease) -> Role:
        """As what a release answers; one that was replaced while it did counts as current."""
        return "canary" if release is self._trials["canary"].release and release is not self._current else "current"

    def trial(self, role: VariationRole) -> Trial:
        """The canary or the shadow."""
        return self._trials[role]

    def describe(self) -> dict[str, Any]:
        """What is not as the pointer says, and what is tried: ``refused``, ``canary`` and ``shadow`` of the answers."""
        refused = dataclasses.asdict(self.refusal) if self.refusal else None
        return {"refused": refused, **{role: trial.describe() for role, trial in self._trials.items()}}

    def start(self) -> None:
        """Follow the pointers from now on, in tasks of the running loop, until ``stop``."""
        for recurring in self._recurring:
            recurring.start()

    async def stop(self) -> None:
        """Follow the pointers no longer, and close everything; called when no request is under way."""
        for recurring in self._recurring:
            await recurring.stop()
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.wait([self._returning])
        await self._follower.stop()
        for trial in self._trials.values():
            await trial.stop()
        self._current = self._previous = None
        await self._opened.stop()
        await self._pointer.close()

    async def poll(self) -> None:
        """Look at the pointer once, and return when what it names is served or refused."""
        await self._look()
        await self._follower.settle()
        for trial in self._trials.values():
            await trial.settle()

    async def _look(self) -> None:
        try:
            pointer = await self._pointer.read()
        except StoreError as error:
            self._follower.refuse(None, "store_unavailable", error)
            return
        except (ReleaseError, OSError) as error:
            self._follower.refuse(None, "release_invalid", error)
            return
        if pointer is None:
            self._follower.refuse(None, "no_release", None)
            return
        wanted = (self._settings.model, pointer.release)
        if self._current is not None and wanted == self._current.key:
            self._follower.rest()
        else:
            self._follower.follow(wanted)
        if self._current is not None:  # before that, nothing may delay it
            for role, trial in self._trials.items():
                trial.follow(pointer.variation(role))
        self._close_unneeded()

    async def _look_at_overlays(self) -> None:
        await self._overlays.follow_all(self._opened.all())
        await self._overlays.report(self._current)

    def _serve(self, release: LoadedRelease) -> None:
        """Swap: from here on new requests get ``release``, those under way keep theirs."""
        self._previous, self._current = self._current, release
        self._metrics.serve_release("current", release.manifest, release.scorer.native)
        logger.info("release served", extra={"fields": {"role": "current", "release": release.release}})
        self._close_unneeded()

    def _close_unneeded(self) -> None:
        needed = {self._follower.wanted, *(release.key for release in (self._current, self._previous) if release)}
        self._opened.keep(needed.union(*(trial.needed for trial in self._trials.values())))

    def _take_out(self, damaged: LoadedRelease, error: ReleaseError) -> None:
        """An open release was found damaged: no new request gets it. For a current one, the one before is served."""
        for trial in self._trials.values():
            if trial.release is damaged:
                trial.take_out(error)
        previous = self._previous
        if damaged is self._current:
            self._current = None
            if previous is None or previous.store.waits:
                self._metrics.serve_nothing("current")
            else:
                self._serve(previous)
            self._follower.refuse(damaged.release, "release_invalid", error)
            if previous is not None and previous.store.waits:
                self._returning = asyncio.get_running_loop().create_task(self._return_to(previous))
        elif damaged is previous:
            # It is not the promoted one, so it is no refusal to show; it only cannot be rolled back to unverified.
            self._previous = None
            fields = {"role": "previous", "release": damaged.release, "detail": str(error)}
            logger.warning("release refused", extra={"fields": {**fields, "reason": "release_invalid"}})
            self._metrics.refused.labels("release_invalid", "previous").inc()

    async def _return_to(self, previous: LoadedRelease) -> None:
        """Serve the release before a damaged one, as soon as the store answers and if its rows are still there."""
        told = ""
        while self._current is None and self._previous is previous:
            try:
                await self._opened.get(previous.key)
            except (StoreError, ReleaseError) as error:
                if str(error) != told:
                    told = str(error)
                    fields = {"release": previous.release, "detail": told}
                    logger.warning("the release before cannot be served again", extra={"fields": fields})
                await asyncio.sleep(self._settings.poll_ms / 1000.0)
            else:
                if self._current is None and self._previous is previous:
                    self._serve(previous)
