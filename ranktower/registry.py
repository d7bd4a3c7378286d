"""The registry: the releases of each model in one folder, and the pointer to the one that is served.

``<root>/<model>/<release>/`` are releases, ``<root>/<model>/.staging/<release>/`` releases in the making, and
``<root>/<model>/current`` the pointer. See ``docs/formats.md``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ranktower.embedding_store.durable import fsync_folder, fsync_tree, write_file
from ranktower.errors import ReleaseError
from ranktower.release import (
    MANIFEST,
    Manifest,
    check_model_name,
    check_release_id,
    is_release_id,
    read_manifest,
    verify_release,
)

POINTER = "current"
STAGING = ".staging"
_LOCK = ".lock"
_MAX_PREVIOUS = 100


class Pointer(BaseModel):
    """Which release is served, and which ones were before, latest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    previous: tuple[str, ...] = ()

    @field_validator("release", "previous")
    @classmethod
    def _are_releases(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for release in (value,) if isinstance(value, str) else value:
            try:
                check_release_id(release)
            except ReleaseError as error:
                raise ValueError(str(error)) from None
        return value

    def promoted(self, release: str) -> Pointer:
        """The pointer after ``release`` is promoted; itself if that is served already."""
        if release == self.release:
            return self
        before = [self.release, *(one for one in self.previous if one != release)]
        return Pointer(release=release, previous=tuple(before[:_MAX_PREVIOUS]))

    def rolled_back(self) -> Pointer | None:
        """The pointer to the release served before this one, None if there was none."""
        if not self.previous:
            return None
        return Pointer(release=self.previous[0], previous=self.previous[1:])

    def to_bytes(self) -> bytes:
        """JSON, one line."""
        return self.model_dump_json().encode("utf-8") + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str) -> Pointer:
        """The pointer in ``content``; ``source`` names it in the ReleaseError of a wrong one."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise ReleaseError(f"{source}: not a pointer: {error.errors()[0]['msg']}, got {content!r:.100}") from error


class Registry:
    """All releases below one folder. Several processes may use it at once: changes take a lock, reading needs none."""

    def __init__(self, root: Path) -> None:
        """``root`` need not exist yet."""
        self.root = Path(root)

    def release_dir(self, model: str, release: str) -> Path:
        """Where a published release lies, or would."""
        return self.root / check_model_name(model) / check_release_id(release)

    def staging_dir(self, model: str, release: str) -> Path:
        """Where a release is put together before ``publish``, on the same file system; not created here."""
        return self.root / check_model_name(model) / STAGING / check_release_id(release)

    def releases(self, model: str) -> list[str]:
        """Ids of the published releases, oldest first."""
        folder = self.root / check_model_name(model)
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if is_release_id(path.name) and (path / MANIFEST).exists())

    def publish(self, staging: Path) -> Path:
        """Verify a release in the making and move it to its place, whole or not at all; returns that place.

        Publishing the same release again does nothing. On failure ``staging`` stays as it is.

        Raises:
            ReleaseError: the release is damaged, ``staging`` is not the folder its manifest belongs in, or another
                release of this id has been published.
        """
        model, release = staging.parent.parent.name, staging.name
        target = self.release_dir(model, release)
        if staging.resolve() != self.staging_dir(model, release).resolve():
            raise ReleaseError(f"{staging}: not in the registry; expected {self.root / '<model>' / STAGING / release}")
        try:
            manifest = _verify_in_place(staging, model, release)
            fsync_tree(staging)
        except (ReleaseError, OSError):
            if staging.exists() or not target.is_dir():
                raise
            _verify_in_place(target, model, release)  # another run moved it, earlier or just now
            return target
        with self._lock(model):
            if target.exists():
                if read_manifest(target) != manifest:
                    raise ReleaseError(f"{target}: another release is published under this id")
                return target
            try:
                staging.rename(target)
            except OSError as error:
                raise ReleaseError(f"{staging}: cannot be moved to {target}: {error.strerror}") from error
            fsync_folder(target.parent)
            fsync_folder(staging.parent)
        return target

    def promote(self, model: str, release: str) -> Pointer:
        """Serve ``release`` from now on; ReleaseError if it is not published or not as its manifest says."""
        folder = self.release_dir(model, release)
        if not folder.is_dir():
            known = ", ".join(self.releases(model)) or "none"
            raise ReleaseError(
                f"{folder}: release {release!r} of model {model!r} is not published (published: {known})"
            )
        _verify_in_place(folder, model, release)
        with self._lock(model):
            before = self.current(model)
            pointer = before.promoted(release) if before else Pointer(release=release)
            write_file(self._pointer_path(model), pointer.to_bytes())
        return pointer

    def rollback(self, model: str) -> Pointer:
        """Serve again what was served before; ReleaseError if nothing was, or if that is damaged or gone."""
        if not self._pointer_path(model).exists():
            raise ReleaseError(f"model {model!r}: no release has been promoted")
        with self._lock(model):
            before = self.current(model)
            pointer = before.rolled_back() if before else None
            if pointer is None:
                raise ReleaseError(f"model {model!r}: no release was promoted before the current one")
            _verify_in_place(self.release_dir(model, pointer.release), model, pointer.release)
            write_file(self._pointer_path(model), pointer.to_bytes())
        return pointer

    def current(self, model: str) -> Pointer | None:
        """The pointer, None before the first ``promote``; ReleaseError if it cannot be read."""
        path = self._pointer_path(model)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
        return Pointer.from_bytes(content, source=str(path))

    def _pointer_path(self, model: str) -> Path:
        return self.root / check_model_name(model) / POINTER

    @contextmanager
    def _lock(self, model: str) -> Iterator[None]:
        """Hold the model's lock; the system gives it back when the process ends, however it ends."""
        descriptor = os.open(self.root / check_model_name(model) / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _verify_in_place(folder: Path, model: str, release: str) -> Manifest:
    """``verify_release``, and the manifest's names are those of the folders it lies in."""
    manifest = verify_release(folder)
    for key, value, expected in (("model", manifest.model, model), ("release", manifest.release, release)):
        if value != expected:
            raise ReleaseError(f"{folder / MANIFEST}: {key}: {value!r}, but the folder says {expected!r}")
    return manifest
