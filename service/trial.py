"""A canary or a shadow: a release that is open beside the current one."""

from __future__ import annotations

import logging
from typing import Any

from ranktower.errors import ReleaseError
from ranktower.pointer import Variation, VariationRole
from service.follower import Follower
from service.loaded import LoadedRelease
from service.metrics import Metrics
from service.open_releases import OpenReleases
from service.settings import ReleaseSettings
from service.verification import ReleaseKey

logger = logging.getLogger(__name__)


class Trial:
    """What the pointer says of one of the two, and what became of it. Without it everything goes on as it did."""

    def __init__(self, role: VariationRole, opened: OpenReleases, settings: ReleaseSettings, metrics: Metrics) -> None:
        """Loads nothing before ``follow``."""
        self._role: VariationRole = role
        self._model = settings.model
        self._metrics = metrics
        self._follower = Follower(role, opened, settings, metrics, self._begin)
        self.variation: Variation | None = None
        self.release: LoadedRelease | None = None
        """None while it is being loaded or refused, or where there is to be none."""

    def follow(self, variation: Variation | None) -> None:
        """Do as the pointer says: end at once, load, or go on, perhaps with another share."""
        self.variation = variation
        key = (variation.model or self._model, variation.release) if variation else None
        if self.release is not None and self.release.key != key:
            self._end()
        if key is None or self.release is not None:
            self._follower.rest()
        else:
            self._follower.follow(key)

    def take_out(self, error: ReleaseError) -> None:
        """The release was found damaged."""
        if self.release is not None:
            self._follower.refuse(self.release.release, "release_invalid", error)
            self._end()

    def describe(self) -> dict[str, Any] | None:
        """For people and programs who ask how it stands."""
        if self.variation is None:
            return None
        refusal = self._follower.refusal
        return {
            **self.variation.model_dump(),
            "model": self.variation.model or self._model,
            "serving": self.release is not None,
            "refused": refusal.reason if refusal else None,
        }

    @property
    def needed(self) -> set[ReleaseKey | None]:
        """What must stay open for it."""
        return {self.release.key if self.release else None, self._follower.wanted}

    async def settle(self) -> None:
        """Return when nothing is being loaded."""
        await self._follower.settle()

    async def stop(self) -> None:
        """Load nothing any more."""
        await self._follower.stop()
        self.release = None

    def _begin(self, release: LoadedRelease) -> None:
        self.release = release
        self._metrics.serve_release(self._role, release.manifest, release.scorer.native)
        logger.info("release served", extra={"fields": {"role": self._role, "release": release.release}})

    def _end(self) -> None:
        self.release = None
        self._metrics.serve_nothing(self._role)
