"""The rest of a release's verification, while it is served: the SHA-256 of its large files.

Ten million rows are 13 GB, and a start must not wait until they are hashed. What is small is hashed before a release is
served (``service.loaded``), the rest here: in a thread that runs when no request does, and once a machine, for the
workers of one ``ranktower serve`` share the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ranktower.embedding_store.durable import write_file
from ranktower.errors import ReleaseError
from ranktower.registry import Registry
from ranktower.release import Manifest
from ranktower.verification import UnreadableError, large_files, verify_files
from service.background import take_lowest_priority
from service.settings import SHARED_FOLDER_ENV, ReleaseSettings

logger = logging.getLogger(__name__)

# So much is hashed in a moment. Graphs, features and golden pairs are far below, so that whatever decides how rows are
# read and scored is verified before the first request; above are the tables and indexes of large catalogues.
LARGE_FILE_BYTES = 64 << 20

ReleaseKey = tuple[str, str]
"""Model and release."""

RETRY_S = 30.0
_LOCK_POLL_S = 0.2


class _CancelledError(Exception):
    """The service stops, or no longer has the release open. No finding about its files."""


class LargeFileChecks:
    """The checks under way, at most one a release. For one event loop."""

    def __init__(self, settings: ReleaseSettings, on_damage: Callable[[ReleaseKey, ReleaseError], None]) -> None:
        """``on_damage(key, error)`` is called on the event loop when a file turns out to be another."""
        self._settings = settings
        self._on_damage = on_damage
        self._tasks: dict[ReleaseKey, asyncio.Task[None]] = {}

    def start(self, manifest: Manifest) -> None:
        """Verify the large files of a release that has just been loaded."""
        paths = large_files(manifest, over_bytes=LARGE_FILE_BYTES)
        if not paths:
            return
        folder = Registry(self._settings.registry).release_dir(manifest.model, manifest.release)
        task = asyncio.get_running_loop().create_task(_verify(folder, manifest, paths))
        key = manifest.model, manifest.release
        self._tasks[key] = task
        task.add_done_callback(partial(self._report, key))

    def cancel(self, key: ReleaseKey) -> None:
        """Stop verifying a release; nothing happens if that is done already."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Stop every check and wait until each has stopped."""
        tasks = list(self._tasks.values())
        for key in list(self._tasks):
            self.cancel(key)
        if tasks:
            await asyncio.wait(tasks)

    def _report(self, key: ReleaseKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            logger.info("release verified", extra={"fields": {"release": key[1]}})
        elif isinstance(error, ReleaseError):
            self._on_damage(key, error)
        else:
            # A fault of this program or of the folder of results says nothing about the release.
            logger.error("verifying the release failed", exc_info=error, extra={"fields": {"release": key[1]}})


async def _verify(folder: Path, manifest: Manifest, paths: Sequence[str]) -> None:
    """Hash ``paths`` in a thread of the lowest priority that ends with the task; ReleaseError if one is not right."""
    cancelled = threading.Event()
    with contextlib.ExitStack() as stack:
        # A thread of its own: one of the loop's pool would keep the priority for whatever it does next.
        executor = ThreadPoolExecutor(1, thread_name_prefix="verify", initializer=take_lowest_priority)
        stack.callback(executor.shutdown, wait=False)
        stack.callback(cancelled.set)
        work = partial(verify_once, folder, manifest, paths, cancelled=cancelled)
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(executor, work)
            except UnreadableError as error:
                # No finding about the files, so nobody is told of one, and it is tried again.
                fields = {"release": manifest.release, "detail": str(error)}
                logger.warning("the release could not be verified; trying again", extra={"fields": fields})
                await asyncio.sleep(RETRY_S)


def verify_once(folder: Path, manifest: Manifest, paths: Sequence[str], *, cancelled: threading.Event) -> None:
    """Hash ``paths`` of a release, or take over what another worker has found in the very same files.

    Raises:
        ReleaseError: a file is not what the manifest says.
        UnreadableError: a file cannot be read just now.
    """

    def stop_if_cancelled() -> None:
        if cancelled.is_set():
            raise _CancelledError(f"{folder}: not verified to the end")

    shared = os.environ.get(SHARED_FOLDER_ENV)
    if shared is None:
        verify_files(folder, manifest, paths, on_block=stop_if_cancelled)
        return
    record = Path(shared, f"{manifest.model}-{manifest.release}.json")
    with _turn(record.with_suffix(".lock"), cancelled, stop_if_cancelled):
        files = _identities(folder, paths)
        finding = _read(record)
        if finding is None or finding["files"] != files:
            finding = {"files": files, "problem": None}
            try:
                verify_files(folder, manifest, paths, on_block=stop_if_cancelled)
            except UnreadableError:
                raise
            except ReleaseError as error:
                finding["problem"] = str(error)
            with contextlib.suppress(OSError):  # no room for it: then each worker finds out by itself
                write_file(record, json.dumps(finding).encode())
    if finding["problem"] is not None:
        raise ReleaseError(str(finding["problem"]))


@contextlib.contextmanager
def _turn(lock: Path, cancelled: threading.Event, stop_if_cancelled: Callable[[], None]) -> Iterator[None]:
    """Hold the lock; the system frees it when its holder dies, and the next worker goes on."""
    with lock.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                cancelled.wait(_LOCK_POLL_S)
                stop_if_cancelled()
        yield


def _identities(folder: Path, paths: Sequence[str]) -> list[list[str | int]]:
    """What changes when a file is written to or replaced, so that an old finding is not taken for it."""
    found: list[list[str | int]] = []
    for path in paths:
        try:
            status = (folder / path).stat()
        except OSError as error:
            raise UnreadableError(f"{folder / path}: cannot be read: {error.strerror}") from error
        found.append([path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return found


def _read(record: Path) -> dict[str, object] | None:
    try:
        content: dict[str, object] = json.loads(record.read_bytes())
    except FileNotFoundError:
        return None
    return content
