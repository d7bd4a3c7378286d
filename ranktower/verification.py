"""The hashes of a release's files: taken when it is sealed, compared before it is trusted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ranktower.embedding_store.durable import raise_error
from ranktower.errors import ReleaseError
from ranktower.release import MANIFEST, FileEntry, Manifest, read_manifest

# Bytes hashed at once: a few milliseconds, during which a stop waits. Between two of them the hashing thread takes the
# interpreter's lock, which a service that verifies while it serves should see rarely.
_BLOCK_SIZE = 4 << 20


def hash_file(path: Path, *, on_block: Callable[[], None] = lambda: None) -> FileEntry:
    """Size and SHA-256 of a file, read in blocks; ``on_block`` is called at each."""
    digest = hashlib.sha256()
    size_bytes = 0
    block = memoryview(bytearray(_BLOCK_SIZE))
    with path.open("rb", buffering=0) as file:
        while num_read := file.readinto(block):
            on_block()
            digest.update(block[:num_read])
            size_bytes += num_read
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size_bytes)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """``Manifest.files`` of a folder: every file in it but the manifest, in the order of their paths."""
    return {path: hash_file(folder / path) for path in _list_files(folder)}


def content_hash(files: Mapping[str, FileEntry]) -> str:
    """One SHA-256 (hex) over names and hashes of files, whatever their order."""
    lines = [f"{entry.sha256}  {path}\n" for path, entry in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def verify_release(
    folder: Path, *, max_hashed_bytes: int | None = None, on_block: Callable[[], None] = lambda: None
) -> Manifest:
    """The manifest, once every file has been found to be what the manifest says.

    Args:
        folder: of the release.
        max_hashed_bytes: files above this size are not hashed, only their presence and size are compared;
            ``verify_files`` of ``large_files`` makes up for it. None hashes every file.
        on_block: called at every few MiB; what it raises ends the work, which may take minutes.

    Raises:
        ReleaseError: as ``read_manifest``; a file is missing, is not listed, or differs in size or SHA-256.
    """
    manifest = read_manifest(folder)
    with _read_errors():
        _verify_presence(folder, manifest)
    left_out = [] if max_hashed_bytes is None else large_files(manifest, over_bytes=max_hashed_bytes)
    verify_files(folder, manifest, manifest.files.keys() - set(left_out), on_block=on_block)
    return manifest


def large_files(manifest: Manifest, *, over_bytes: int) -> list[str]:
    """Paths of the files that ``verify_release(max_hashed_bytes=over_bytes)`` does not hash, sorted."""
    return sorted(path for path, entry in manifest.files.items() if entry.size_bytes > over_bytes)


def verify_files(
    folder: Path, manifest: Manifest, paths: Iterable[str], *, on_block: Callable[[], None] = lambda: None
) -> None:
    """Hash these files of the manifest; ReleaseError if one is missing or has another SHA-256, UnreadableError if it
    cannot be read."""
    for path in sorted(paths):
        with _read_errors():
            sha256 = hash_file(folder / path, on_block=on_block).sha256
        if sha256 != manifest.files[path].sha256:
            raise ReleaseError(f"{folder / path}: SHA-256 {sha256}, {MANIFEST} says {manifest.files[path].sha256}")


class UnreadableError(ReleaseError):
    """A file could not be read (too many open files, a network file system that is away): no word on what it holds."""


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename}: missing from the release") from error
    except OSError as error:
        raise UnreadableError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _verify_presence(folder: Path, manifest: Manifest) -> None:
    found = _list_files(folder)
    for path in sorted(manifest.files.keys() - set(found)):
        raise ReleaseError(f"{folder / path}: missing from the release")
    for path in sorted(set(found) - manifest.files.keys()):
        raise ReleaseError(f"{folder / path}: not listed in {MANIFEST}")
    # Sizes before any hash: they cost nothing, and a truncated file is the usual damage.
    for path, expected in manifest.files.items():
        size_bytes = (folder / path).stat().st_size
        if size_bytes != expected.size_bytes:
            raise ReleaseError(f"{folder / path}: {size_bytes} bytes, {MANIFEST} says {expected.size_bytes}")


def _list_files(folder: Path) -> list[str]:
    """Paths of the files in ``folder`` but the manifest, relative, with "/", sorted."""
    paths: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=raise_error):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ReleaseError(f"{path}: not a regular file; a release holds its files itself")
        paths.extend(Path(parent, name).relative_to(folder).as_posix() for name in names)
    return sorted(path for path in paths if path != MANIFEST)
