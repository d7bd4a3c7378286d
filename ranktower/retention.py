"""Garbage collection: releases that nobody serves, tries or may soon roll back to leave the registry.

A release goes in two steps. One rename moves it to ``<model>/.trash``, so that no reader sees half of one; then its
files are removed. What a killed run leaves in the trash is removed by the next.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranktower.embedding_store.durable import fsync_folder
from ranktower.embedding_store.overlay import DELTAS
from ranktower.errors import ConfigError
from ranktower.registry import Registry
from ranktower.release import MANIFEST, check_model_name, is_release_id

TRASH = ".trash"
_LOCK = ".gc.lock"


@dataclass(frozen=True)
class Removed:
    """A folder that was removed, or would be."""

    name: str
    """The release's id; with ``.deltas`` behind it, the rows that were computed for it later."""
    size_bytes: int


@dataclass(frozen=True)
class Collected:
    """What one run did, or would do."""

    removed: tuple[Removed, ...]
    held: tuple[str, ...]
    """Releases that would have gone, but a process on this machine has open."""


def collect(
    registry: Registry, model: str, *, keep: int, also: Collection[str] = (), dry_run: bool = False
) -> Collected:
    """Remove a model's old releases.

    There remain the ``keep`` latest, those that a pointer names as current, canary, shadow or target of a rollback, and
    those that a process holds (``registry.hold_release``). What is gone leaves the pointer's history, too.

    Args:
        registry: where.
        model: whose releases.
        keep: at least 1.
        also: releases that remain as well, such as those that pointers elsewhere name.
        dry_run: only find out; nothing is removed. Who holds a release is not asked, for that takes its lock.

    Raises:
        ConfigError: ``keep`` is below 1.
        ReleaseError: a pointer cannot be read; nothing is removed.
        OSError: a file cannot be removed; the next run goes on.
    """
    if keep < 1:
        raise ConfigError(f"--keep must be at least 1, got {keep}")
    folder = registry.root / check_model_name(model)
    if not folder.is_dir():
        return Collected((), ())
    with registry.lock(model, _LOCK):
        return _Collection(registry, model, also, dry_run=dry_run).run(keep)


class _Collection:
    """One run; a model has one at a time."""

    def __init__(self, registry: Registry, model: str, also: Collection[str], *, dry_run: bool) -> None:
        self._registry = registry
        self._model = model
        self._folder = registry.root / model
        self._also = set(also)
        self._dry_run = dry_run
        self._removed: list[Removed] = []

    def run(self, keep: int) -> Collected:
        self._empty_trash()
        needed = self._needed()
        old = [release for release in self._registry.releases(self._model)[:-keep] if release not in needed]
        held = tuple(release for release in old if not self._take_away(release))
        self._take_away_deltas()
        if not self._dry_run:
            self._forget()
            self._empty_trash()
        return Collected(tuple(sorted(self._removed, key=lambda removed: removed.name)), held)

    def _take_away(self, release: str) -> bool:
        """Move a release to the trash; False where a process holds it."""
        if self._dry_run:
            self._discard(self._folder / release, release)
            return True
        # Whoever writes a pointer holds what it will name, so with the lock on the release a second look is the last.
        with _alone_with(self._folder / release) as alone:
            if alone:
                with self._registry.lock(self._model):
                    if release not in self._needed():
                        self._discard(self._folder / release, release)
        return alone

    def _needed(self) -> set[str]:
        return self._registry.named(self._model) | self._also

    def _take_away_deltas(self) -> None:
        published = {*self._registry.releases(self._model)} - {removed.name for removed in self._removed}
        deltas = self._folder / DELTAS
        for path in sorted(deltas.iterdir()) if deltas.is_dir() else ():
            if is_release_id(path.name) and path.name not in published:
                self._discard(path, f"{path.name}{DELTAS}")

    def _discard(self, path: Path, name: str) -> None:
        if self._dry_run:
            self._removed.append(Removed(name, _size_bytes(path)))
            return
        trash = self._folder / TRASH
        trash.mkdir(exist_ok=True)
        path.rename(trash / name)
        fsync_folder(path.parent)

    def _empty_trash(self) -> None:
        trash = self._folder / TRASH
        for path in sorted(trash.iterdir()) if trash.is_dir() else ():
            self._removed.append(Removed(path.name, _size_bytes(path)))
            if not self._dry_run:
                shutil.rmtree(path)

    def _forget(self) -> None:
        """Drop from the pointer's history what can no longer be rolled back to."""
        with self._registry.lock(self._model):
            pointer = self._registry.current(self._model)
            if pointer is None:
                return
            published = self._registry.releases(self._model)
            previous = tuple(release for release in pointer.previous if release in published)
            if previous != pointer.previous:
                self._registry.write_pointer(self._model, pointer.model_copy(update={"previous": previous}))


@contextmanager
def _alone_with(folder: Path) -> Iterator[bool]:
    """Whether no process holds the release; if so, none can until the end of the block.

    On a file system without locks none can hold it at all: there, only ``keep`` protects what a service has open.
    """
    with (folder / MANIFEST).open("r+b") as file:  # to be written to, or NFS gives no exclusive lock
        alone = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            pass
        yield alone


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
