"""Loads what the pointer names for one role, in a task of its own, and tries again what was refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ranktower.errors import ReleaseError, StoreError
from service.golden import GoldenMismatchError
from service.loaded import LoadedRelease
from service.metrics import Metrics, RefusalReason, Role
from service.open_releases import OpenReleases
from service.settings import ReleaseSettings
from service.verification import ReleaseKey

logger = logging.getLogger(__name__)

Reason = Literal["loading", "no_release"] | RefusalReason


@dataclass(frozen=True)
class Refusal:
    """Why the release that the pointer names is not served. ``release`` is None where not even the pointer could be
    read."""

    release: str | None
    reason: Reason


class Follower:
    """One role's attempts. Loading takes seconds, and the pointer may move meanwhile: then it is given up."""

    def __init__(
        self,
        role: Role,
        opened: OpenReleases,
        settings: ReleaseSettings,
        metrics: Metrics,
        on_loaded: Callable[[LoadedRelease], None],
    ) -> None:
        """``on_loaded`` is called, on the event loop, with each release that has been loaded and proven."""
        self._role: Role = role
        self._opened = opened
        self._settings = settings
        self._metrics = metrics
        self._on_loaded = on_loaded
        self.refusal: Refusal | None = None
        self._retry_at = 0.0
        self._wait_s = settings.poll_ms / 1000.0
        self.wanted: ReleaseKey | None = None
        """What is being loaded or was refused; None at rest."""
        self._loading: asyncio.Task[None] | None = None
        self._given_up: set[asyncio.Task[None]] = set()

    def follow(self, wanted: ReleaseKey) -> None:
        """Load ``wanted``, unless that is under way or was refused a moment ago. Called at each look at the pointer."""
        if wanted != self.wanted:
            self._give_up()
        elif self._loading is not None and not self._loading.done():
            return
        self.wanted = wanted
        if self._may_try(wanted[1]):
            self._loading = asyncio.get_running_loop().create_task(self._load(wanted))

    def rest(self) -> None:
        """There is nothing to load: what the pointer names is served, or it names nothing."""
        self._give_up()
        self.refusal = None

    async def settle(self) -> None:
        """Return when nothing is being loaded."""
        if self._loading is not None:
            await self._loading

    async def stop(self) -> None:
        """Give up what is being loaded, and wait until it has been closed."""
        self._give_up()
        if self._given_up:
            await asyncio.wait(self._given_up)

    def _give_up(self) -> None:
        self.wanted = None
        task, self._loading = self._loading, None
        if task is not None and not task.done():
            task.cancel()
            self._given_up.add(task)
            task.add_done_callback(self._given_up.discard)

    async def _load(self, wanted: ReleaseKey) -> None:
        release = wanted[1]
        try:
            loaded = await self._opened.get(wanted)
        except StoreError as error:
            self.refuse(release, "store_unavailable", error)
        except GoldenMismatchError as error:
            self.refuse(release, "golden_mismatch", error)
        except ReleaseError as error:
            self.refuse(release, "release_invalid", error)
        except Exception as error:
            # A fault of this program must not keep it from following the pointer to another release.
            logger.exception("loading a release failed", extra={"fields": {"release": release}})
            self.refuse(release, "release_invalid", error)
        else:
            self.refusal = None
            self._on_loaded(loaded)

    def _may_try(self, release: str) -> bool:
        """A refused release is tried again, for it may be mended, but ever less often: verifying it is work."""
        return self.refusal is None or self.refusal.release != release or time.monotonic() >= self._retry_at

    def refuse(self, release: str | None, reason: Reason, error: Exception | None) -> None:
        """Say why a release is not served, and when it is tried again."""
        refusal = Refusal(release, reason)
        if refusal != self.refusal:
            fields = {"role": self._role, "release": release, "reason": reason, "detail": str(error) if error else None}
            logger.warning("release refused" if release else "no release to serve", extra={"fields": fields})
            self._wait_s = self._settings.poll_ms / 1000.0
        elif reason != "store_unavailable":
            self._wait_s = min(2 * self._wait_s, self._settings.retry_max_ms / 1000.0)
        if release is not None:
            self._metrics.refused.labels(reason, self._role).inc()
        self.refusal = refusal
        self._retry_at = time.monotonic() + self._wait_s
