"""One release, opened and proven: everything that a request needs, and nothing of any other release."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ranktower.embedding_store.local import read_fallback_user
from ranktower.errors import ReleaseError
from ranktower.registry import Registry
from ranktower.release import Manifest, verify_release
from service.golden import check_golden
from service.onnx import ONNX_ERRORS
from service.retrieval import open_retrieval
from service.scorer import Arrays, Scorer, UserTower
from service.settings import Settings
from service.stores import ReleaseStore

logger = logging.getLogger(__name__)

# What a file that is sealed but wrong can raise while it is opened, by the libraries that open it.
_OPEN_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, RuntimeError, *ONNX_ERRORS)


class LoadedRelease:
    """An open release. A request holds it from beginning to end; it is closed once the last one let go."""

    def __init__(self, manifest: Manifest, store: ReleaseStore, parts: Parts) -> None:
        """Use ``load_release``."""
        self.manifest = manifest
        self.store = store
        self.scorer = parts.scorer
        self.user_tower = parts.user_tower
        self.fallback_user = parts.fallback_user
        self.retrieval = parts.retrieval
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

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
        await self.store.close()


class Parts:
    """What of a release is read from its files alone."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open everything; ReleaseError if something cannot be used."""
        self.scorer = Scorer(folder, manifest)
        self.user_tower = UserTower(folder)
        row = read_fallback_user(folder, manifest)
        if row is None:
            raise ReleaseError(f"{folder}: has no fallback user, and users nothing is known of need one")
        self.fallback_user: Arrays = self.scorer.user_arrays(row)
        self.retrieval = open_retrieval(folder, manifest)
        self._item_row_size = manifest.layout("item").row_size
        self._warm_up()

    def _warm_up(self) -> None:
        """Run each graph once: first runs allocate."""
        user = self.user_tower.compute(self.user_tower.encode({}))
        for array, values in self.fallback_user.items():
            if user[array].shape != values.shape:
                raise ReleaseError(f"user_tower.onnx: {array} of shape {user[array].shape}, rows have {values.shape}")
        # The usual size of a request; rows of zeros cost as much as others.
        self.scorer.score(self.fallback_user, np.zeros((1000, self._item_row_size), dtype=np.uint8))
        if self.retrieval is not None:
            self.retrieval.candidate_ids(self.fallback_user, 1)


async def load_release(settings: Settings, release: str) -> LoadedRelease:
    """Verify, open and prove one release of the registry, without disturbing the one being served.

    Raises:
        ReleaseError: it is absent, damaged, of another format version or model, incomplete in the store, or does not
            reproduce its golden scores.
        StoreUnavailableError: the store does not answer.
    """
    try:
        return await _load(settings, release)
    except _OPEN_ERRORS as error:
        raise ReleaseError(f"{release}: cannot be opened: {type(error).__name__}: {error}") from error


async def _verify(folder: Path) -> Manifest:
    """``verify_release`` in a thread that ends with the task: the process waits for its threads before it ends."""
    cancelled = threading.Event()

    def stop_if_cancelled() -> None:
        if cancelled.is_set():
            raise ReleaseError(f"{folder}: not verified to the end, the service stops")

    try:
        return await asyncio.to_thread(verify_release, folder, on_block=stop_if_cancelled)
    except asyncio.CancelledError:
        cancelled.set()
        raise


async def _load(settings: Settings, release: str) -> LoadedRelease:
    folder = Registry(settings.release.registry).release_dir(settings.release.model, release)
    manifest = await _verify(folder)
    if (manifest.model, manifest.release) != (settings.release.model, release):
        raise ReleaseError(f"{folder}: holds release {manifest.release} of model {manifest.model}")
    store = ReleaseStore(settings.store, folder, manifest)
    try:
        await store.check()
        parts = await asyncio.to_thread(Parts, folder, manifest)
        tolerance = settings.release.golden_tolerance
        found = await check_golden(folder, manifest, store=store, scorer=parts.scorer, tolerance=tolerance)
    except BaseException:
        await store.close()
        raise
    fields = {"release": release, "golden_difference": found}
    logger.info("release loaded", extra={"fields": fields})
    return LoadedRelease(manifest, store, parts)
