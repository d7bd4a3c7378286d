"""Which overlays are served: follows their pointers, and swaps them in front of the open releases between requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.local import RowTable
from ranktower.embedding_store.overlay import Overlay, OverlayPointer, deltas_dir, open_overlay, read_overlay_pointer
from ranktower.errors import ReleaseError, StoreError
from ranktower.registry import Registry
from service.background import run_beside
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


@dataclass
class _State:
    """Of one open release."""

    served: OverlayPointer | None = None
    refusal: _Refusal | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def may_try(self, pointer: OverlayPointer | None) -> bool:
        """One that was refused may be mended, but to verify it again and again is work."""
        return self.refusal is None or self.refusal.pointer != pointer or time.monotonic() >= self.refusal.retry_at


@dataclass(frozen=True)
class _Opened:
    """An overlay as the store and the retrieval of a release take it."""

    overlay: Overlay | None
    tables: Mapping[Side, RowTable]
    items: OverlaidItems | None


class Overlays:
    """The overlays of the open releases. One that is damaged is refused, and the one before it goes on."""

    def __init__(self, settings: ReleaseSettings, metrics: Metrics) -> None:
        """Nothing is read before ``follow``."""
        self._registry = Registry(settings.registry)
        self._retry_s = settings.retry_max_ms / 1000.0
        self._metrics = metrics
        self._states: WeakKeyDictionary[LoadedRelease, _State] = WeakKeyDictionary()

    async def follow_all(self, releases: Sequence[LoadedRelease]) -> None:
        """``follow`` each of some open releases, which stay open meanwhile."""
        with contextlib.ExitStack() as held:
            for release in releases:
                held.enter_context(release.hold())
            for release in releases:
                await self.follow(release)

    async def report(self, served: LoadedRelease | None) -> None:
        """Say in the metrics which overlay is served with the release that is ``served``."""
        pointer = None
        if served is not None:
            with served.hold():
                try:
                    pointer = await served.store.served_overlay()
                except (StoreError, ReleaseError):
                    # The metrics stay as they are; that Redis fails is told by those who need rows.
                    return
        self._metrics.serve_overlay(pointer)

    async def follow(self, release: LoadedRelease) -> None:
        """Look at the pointer of one release, and serve the overlay that it names."""
        deltas = deltas_dir(self._registry.release_dir(*release.key))
        state = self._states.setdefault(release, _State())
        pointer: OverlayPointer | None = None
        # One at a time, or the slower of two would put an older overlay back.
        async with state.turn:
            try:
                # In a thread, because the registry may lie on a network file system.
                pointer = await asyncio.to_thread(read_overlay_pointer, deltas)
                if pointer == state.served:
                    state.refusal = None
                elif state.may_try(pointer):
                    self._serve(release, state, await run_beside(_open, release, deltas, pointer))
            except (ReleaseError, OSError, ValueError) as error:
                self._refuse(release, state, pointer, str(error))

    def _serve(self, release: LoadedRelease, state: _State, opened: _Opened) -> None:
        """Swap: from here on requests find the rows of an overlay."""
        release.store.use_overlay(opened.overlay, opened.tables)
        if release.retrieval is not None:
            release.retrieval.use_overlay(opened.items)
        state.served = opened.overlay.pointer if opened.overlay is not None else None
        state.refusal = None
        sequence = state.served.sequence if state.served is not None else None
        logger.info("overlay served", extra={"fields": {"release": release.release, "overlay": sequence}})

    def _refuse(self, release: LoadedRelease, state: _State, pointer: OverlayPointer | None, text: str) -> None:
        if state.refusal is None or state.refusal.text != text:
            fields = {"release": release.release, "overlay": pointer.sequence if pointer else None, "detail": text}
            logger.warning("overlay refused", extra={"fields": fields})
        self._metrics.overlay_refused.inc()
        state.refusal = _Refusal(pointer, text, time.monotonic() + self._retry_s)


def _open(release: LoadedRelease, deltas: Path, pointer: OverlayPointer | None) -> _Opened:
    overlay = open_overlay(deltas, pointer, release.manifest) if pointer is not None else None
    items = release.retrieval.read_overlay(overlay) if release.retrieval is not None else None
    return _Opened(overlay, release.store.cover(overlay), items)
