"""One release, opened and proven: everything that a request needs, and nothing of any other release."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ranktower.embedding_store.codec import RowKind
from ranktower.embedding_store.local import read_fallback_user
from ranktower.errors import ReleaseError
from ranktower.registry import Registry, hold_release
from ranktower.release import Manifest
from ranktower.verification import verify_release
from service.anytime import Anytime
from service.background import Runner, run_beside
from service.costs import Costs
from service.golden import check_golden
from service.onnx import ONNX_ERRORS
from service.retrieval import open_retrieval
from service.scorer import Scorer, UserRow
from service.settings import EngineChoice, Settings
from service.stores import ReleaseStore
from service.towers import open_towers
from service.verification import LARGE_FILE_BYTES, ReleaseKey
from service.warm_up import warm_up

logger = logging.getLogger(__name__)

# What a file that is sealed but wrong can raise while it is opened, by the libraries that open it.
_OPEN_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, RuntimeError, *ONNX_ERRORS)


class LoadedRelease:
    """An open release. A request holds it from beginning to end; it is closed once the last one let go."""

    def __init__(
        self, manifest: Manifest, store: ReleaseStore, parts: Parts, costs: Costs, opened: AsyncExitStack
    ) -> None:
        """Use ``load_release``. ``opened`` closes what is to be closed."""
        self._opened = opened
        self.manifest = manifest
        self.store = store
        self.scorer = parts.scorer
        self.costs = costs
        self.anytime = Anytime(parts.scorer, manifest.ladder, costs)
        self.towers = parts.towers
        self.fallback_user = parts.fallback_user
        self.retrieval = parts.retrieval
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def key(self) -> ReleaseKey:
        """Which release of which model it is."""
        return self.manifest.model, self.manifest.release

    @property
    def release(self) -> str:
        """The release's id."""
        return self.manifest.release

    @contextmanager
    def hold(self) -> Iterator[LoadedRelease]:
        """Keep the release open while a request runs. On one event loop, so counting needs no lock."""
        self._num_requests += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._num_requests -= 1
            if not self._num_requests:
                self._idle.set()

    async def close(self) -> None:
        """Wait for the last request, then close the stores. The caller has made sure that no new one comes."""
        await self._idle.wait()
        await self._opened.aclose()


class Parts:
    """What of a release is read from its files alone."""

    def __init__(
        self, folder: Path, manifest: Manifest, item_row_kinds: Sequence[RowKind], engine: EngineChoice
    ) -> None:
        """Open everything; ReleaseError if something cannot be used. ``item_row_kinds``: of the stores asked."""
        self.scorer = Scorer(folder, manifest, item_row_kinds, engine=engine)
        # Items are computed into rows like those of the first store.
        items = replace(manifest.layout("item"), kind=item_row_kinds[0])
        self.towers = open_towers(folder, {"user": manifest.layout("user"), "item": items})
        row = read_fallback_user(folder, manifest)
        if row is None:
            raise ReleaseError(f"{folder}: has no fallback user, and users nothing is known of need one")
        self.fallback_user: UserRow = row
        self.retrieval = open_retrieval(folder, manifest)
        self._kinds = item_row_kinds

    def measure_costs(self, manifest: Manifest) -> Costs:
        """First estimates, by the engine that has been trusted by now."""
        return warm_up(self.scorer, manifest, self._kinds, self.fallback_user, self.retrieval)


async def load_release(
    settings: Settings, release: str, *, model: str | None = None, verify_all: bool = False, beside: bool = False
) -> LoadedRelease:
    """Verify, open and prove one release of the registry, without disturbing the one being served.

    Args:
        model: whose release, where it is not of the model that the settings name.
        verify_all: hash the large files too, which takes minutes; else that is left to ``LargeFileChecks``.
        beside: another release is being served, and its requests come first.

    Raises:
        ReleaseError: it is absent, damaged, of another format version or model, incomplete in the store, or does not
            reproduce its golden scores.
        StoreUnavailableError: the store does not answer.
    """
    try:
        run: Runner = run_beside if beside else asyncio.to_thread
        folder = Registry(settings.release.registry).release_dir(model or settings.release.model, release)
        return await _load(settings, folder, run, None if verify_all else LARGE_FILE_BYTES)
    except _OPEN_ERRORS as error:
        raise ReleaseError(f"{release}: cannot be opened: {type(error).__name__}: {error}") from error


async def _verify(folder: Path, run: Runner, max_hashed_bytes: int | None) -> Manifest:
    """``verify_release`` in a thread that ends with the task: the process waits for its threads before it ends."""
    cancelled = threading.Event()

    def stop_if_cancelled() -> None:
        if cancelled.is_set():
            raise ReleaseError(f"{folder}: not verified to the end, the service stops")

    try:
        return await run(verify_release, folder, max_hashed_bytes=max_hashed_bytes, on_block=stop_if_cancelled)
    except asyncio.CancelledError:
        cancelled.set()
        raise


async def _load(settings: Settings, folder: Path, run: Runner, max_hashed_bytes: int | None) -> LoadedRelease:
    async with AsyncExitStack() as opened:
        opened.enter_context(await run(hold_release, folder))
        manifest = await _verify(folder, run, max_hashed_bytes)
        if (manifest.model, manifest.release) != (folder.parent.name, folder.name):
            raise ReleaseError(f"{folder}: holds release {manifest.release} of model {manifest.model}")
        store = ReleaseStore(settings.store, folder, manifest)
        opened.push_async_callback(store.close)
        await store.check()
        parts = await run(Parts, folder, manifest, store.item_row_kinds, settings.scorer.engine)
        tolerance = settings.release.golden_tolerance
        found = await check_golden(folder, manifest, store=store, scorer=parts.scorer, tolerance=tolerance, run=run)
        fields = {"release": manifest.release, "golden_difference": found, "engine": parts.scorer.native.engine}
        logger.info("release loaded", extra={"fields": fields})
        costs = await run(parts.measure_costs, manifest)
        return LoadedRelease(manifest, store, parts, costs, opened.pop_all())
