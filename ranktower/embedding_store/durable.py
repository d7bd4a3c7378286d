"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace ``path`` by ``content`` atomically: a reader sees the old file or the new one, never a part.

    ``mode`` has the permissions, less those that the process's umask withholds.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk: a rename is lasting only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Wait until every file and name below ``folder`` is on the disk."""
    for parent, _, names in os.walk(folder, onerror=raise_error):
        for name in names:
            fsync_file(Path(parent, name))
        fsync_folder(Path(parent))


def raise_error(error: OSError) -> None:
    """For ``os.walk``, which otherwise passes over what it cannot read."""
    raise error
