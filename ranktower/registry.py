"""The registry: the releases of each model in one folder, and the pointer to the ones that are served.

``<root>/<model>/<release>/`` are releases, ``<root>/<model>/.staging/<release>/`` releases in the making, and
``<root>/<model>/current`` the pointer. See ``docs/formats.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ranktower.embedding_store.durable import fsync_folder, fsync_tree, write_file
from ranktower.errors import ReleaseError
from ranktower.file_lock import file_lock
from ranktower.pointer import Pointer, Variation, VariationRole
from ranktower.release import (
    MANIFEST,
    Manifest,
    check_model_name,
    check_release_id,
    is_model_name,
    is_release_id,
    read_manifest,
)
from ranktower.verification import verify_release

POINTER = "current"
STAGING = ".staging"
_LOCK = ".lock"


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

    def models(self) -> list[str]:
        """Names of the models that have a folder."""
        paths = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path.name for path in paths if path.is_dir() and is_model_name(path.name))

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
        with self.lock(model):
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
        with self._proven(model, release), self.lock(model):
            before = self.current(model)
            pointer = before.promoted(release) if before else Pointer(release=release)
            self.write_pointer(model, pointer)
        return pointer

    def rollback(self, model: str) -> Pointer:
        """Serve again what was served before.

        Raises:
            ReleaseError: nothing was, or it is damaged or gone; or the pointer moved while it was verified.
        """
        before = self._require_pointer(model)
        if not before.previous:
            raise ReleaseError(f"model {model!r}: no release was promoted before the current one")
        with self._proven(model, before.previous[0]), self.lock(model):
            pointer = self._require_pointer(model)
            if pointer.previous[:1] != before.previous[:1]:
                raise ReleaseError(f"model {model!r}: the pointer has moved to {pointer.release} meanwhile")
            pointer = pointer.rolled_back()
            self.write_pointer(model, pointer)
        return pointer

    def vary(self, model: str, role: VariationRole, variation: Variation | None) -> Pointer:
        """Try a release beside the current one as its canary or shadow, or with None no release any more.

        Raises:
            ReleaseError: no release is promoted that it could stand beside; the release is not published or not as its
                manifest says.
        """
        self._require_pointer(model)
        with contextlib.ExitStack() as stack:
            if variation is not None:
                stack.enter_context(self._proven(variation.model or model, variation.release))
            stack.enter_context(self.lock(model))
            pointer = self._require_pointer(model).varied(role, variation)
            self.write_pointer(model, pointer)
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

    def write_pointer(self, model: str, pointer: Pointer) -> None:
        """Replace the pointer; by whoever holds ``lock``."""
        write_file(self._pointer_path(model), pointer.to_bytes())

    def named(self, model: str) -> set[str]:
        """The releases of ``model`` that a pointer names, its own or another model's; ReleaseError if one cannot be
        read."""
        names: set[tuple[str, str]] = set()
        for owner in self.models():
            pointer = self.current(owner)
            if pointer is not None:
                names |= pointer.names(owner)
        return {release for owner, release in names if owner == model}

    def lock(self, model: str, name: str = _LOCK) -> contextlib.AbstractContextManager[None]:
        """Hold a lock of the model, by default that of its pointer and releases."""
        return file_lock(self.root / check_model_name(model) / name)

    def _pointer_path(self, model: str) -> Path:
        return self.root / check_model_name(model) / POINTER

    def _require_pointer(self, model: str) -> Pointer:
        pointer = self.current(model)
        if pointer is None:
            raise ReleaseError(f"model {model!r}: no release has been promoted")
        return pointer

    @contextlib.contextmanager
    def _proven(self, model: str, release: str) -> Iterator[None]:
        """A published release that is whole, and stays so until a pointer names it."""
        folder = self.release_dir(model, release)
        if not folder.is_dir():
            known = ", ".join(self.releases(model)) or "none"
            raise ReleaseError(
                f"{folder}: release {release!r} of model {model!r} is not published (published: {known})"
            )
        with hold_release(folder):
            _verify_in_place(folder, model, release)
            yield


def hold_release(folder: Path) -> BinaryIO:
    """Keep ``ranktower gc`` from removing a published release until the returned file is closed, or the process ends.

    Raises:
        ReleaseError: there is no such release, or it is being removed.
    """
    path = folder / MANIFEST
    try:
        file = path.open("rb")
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ReleaseError(f"{folder}: is being removed") from None
    except OSError:
        pass  # a file system without locks; there, only --keep protects what a service has open
    return file


def _verify_in_place(folder: Path, model: str, release: str) -> Manifest:
    """``verify_release``, and the manifest's names are those of the folders it lies in."""
    manifest = verify_release(folder)
    for key, value, expected in (("model", manifest.model, model), ("release", manifest.release, release)):
        if value != expected:
            raise ReleaseError(f"{folder / MANIFEST}: {key}: {value!r}, but the folder says {expected!r}")
    return manifest
