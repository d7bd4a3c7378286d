"""Which overlays are served: follows their pointers, and swaps them in front of the open releases between requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.local import RowTable
from ranktower.embedding_store.overlay import Overlay, OverlayPointer, deltas_dir, open_overlay, read_overlay_pointer
from ranktower.errors import ReleaseError, StoreError
from ranktower.registry import Registry
from service.loaded import LoadedRelease
from service.metrics import Metrics
from service.retrieval import OverlaidItems
from service.settings import ReleaseSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Refusal:
    pointer: OverlayPointer | None
    """None where not even that could be read."""
    text: str
    retry_at: float


@dataclass(frozen=True)
class _Opened:
    """An overlay as the store and the retrieval of a release take it."""

    overlay: Overlay | None
    tables: Mapping[Side, RowTable]
    items: OverlaidItems | None


class Overlays:
    """The overlays of the open releases. One that is damaged is refused, and the one before it goes on."""

    def __init__(self, settings: ReleaseSettings, metrics: Metrics) -> None:
        """Nothing is read before ``follow`` or ``poll``."""
        self._registry = Registry(settings.registry)
        self._retry_s = settings.retry_max_ms / 1000.0
        self._metrics = metrics
        self._served: WeakKeyDictionary[LoadedRelease, OverlayPointer | None] = WeakKeyDictionary()
        self._refused: WeakKeyDictionary[LoadedRelease, _Refusal] = WeakKeyDictionary()

    async def poll(self, releases: Sequence[LoadedRelease], *, served: LoadedRelease | None) -> None:
        """Look at the pointer of every open release once; the metrics are of the one that is ``served``."""
        for release in releases:
            await self.follow(release)
        if served is None:
            self._metrics.serve_overlay(None)
            return
        # Where Redis does not answer, the metrics stay as they are; its failure is told by those who need rows.
        with contextlib.suppress(StoreError, ReleaseError):
            self._metrics.serve_overlay(await served.store.newest_overlay())

    async def follow(self, release: LoadedRelease) -> None:
        """Look at the pointer of one release, and serve the overlay that it names."""
        deltas = deltas_dir(self._registry.release_dir(*release.key))
        pointer: OverlayPointer | None = None
        try:
            # In a thread, because the registry may lie on a network file system.
            pointer = await asyncio.to_thread(read_overlay_pointer, deltas)
            if pointer == self._served.get(release):
                self._refused.pop(release, None)
            elif self._may_try(release, pointer):
                self._serve(release, await asyncio.to_thread(_open, release, deltas, pointer))
        except (ReleaseError, OSError, ValueError) as error:
            self._refuse(release, pointer, error)

    def _serve(self, release: LoadedRelease, opened: _Opened) -> None:
        """Swap: from here on requests find the rows of an overlay."""
        release.store.use_overlay(opened.overlay, opened.tables)
        if release.retrieval is not None:
            release.retrieval.use_overlay(opened.items)
        pointer = opened.overlay.pointer if opened.overlay is not None else None
        self._served[release] = pointer
        self._refused.pop(release, None)
        sequence = pointer.sequence if pointer is not None else None
        logger.info("overlay served", extra={"fields": {"release": release.release, "overlay": sequence}})

    def _may_try(self, release: LoadedRelease, pointer: OverlayPointer | None) -> bool:
        """One that was refused may be mended, but to verify it again and again is work."""
        refusal = self._refused.get(release)
        return refusal is None or refusal.pointer != pointer or time.monotonic() >= refusal.retry_at

    def _refuse(self, release: LoadedRelease, pointer: OverlayPointer | None, error: Exception) -> None:
        before = self._refused.get(release)
        text = str(error)
        if before is None or before.text != text:
            fields = {"release": release.release, "overlay": pointer.sequence if pointer else None, "detail": text}
            logger.warning("overlay refused", extra={"fields": fields})
        self._metrics.overlay_refused.inc()
        self._refused[release] = _Refusal(pointer, text, time.monotonic() + self._retry_s)


def _open(release: LoadedRelease, deltas: Path, pointer: OverlayPointer | None) -> _Opened:
    overlay = open_overlay(deltas, pointer, release.manifest) if pointer is not None else None
    items = release.retrieval.read_overlay(overlay) if release.retrieval is not None else None
    return _Opened(overlay, release.store.cover(overlay), items)
