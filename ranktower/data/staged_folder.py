"""A folder that is replaced as a whole, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from ranktower.errors import DataError


@contextmanager
def staged_folder(folder: Path, *, owned: Iterable[str]) -> Iterator[Path]:
    """A folder beside ``folder`` to write into; it takes its place when the block ends well, and goes away if not.

    Args:
        folder: where the result goes; an older result there is replaced.
        owned: patterns of the names an older result may hold. Anything else there is somebody's, and is not deleted.

    Raises:
        DataError: ``folder`` is a file, or holds a name that is not owned.
    """
    folder = Path(os.path.abspath(folder))
    _refuse_foreign(folder, tuple(owned))
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.staging-{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    _remove_litter(folder)
    staging.mkdir()
    try:
        yield staging
        if folder.exists():
            folder.rename(replaced)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not folder.exists() and replaced.exists():
            replaced.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)


def _remove_litter(folder: Path) -> None:
    """What ``staged_folder`` does in the end, for killed processes: put the old result back, remove the new one."""
    for entry in folder.parent.iterdir():
        found = re.fullmatch(re.escape(f".{folder.name}.") + r"(staging|replaced)-(\d+)", entry.name)
        if found is None or (int(found[2]) != os.getpid() and _is_running(int(found[2]))):
            continue
        if found[1] == "replaced" and not folder.exists():
            entry.rename(folder)
        else:
            shutil.rmtree(entry, ignore_errors=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _refuse_foreign(folder: Path, owned: tuple[str, ...]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError("is a file, not a folder to write into", file=folder)
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in owned)]
    if foreign:
        raise DataError(f"will not replace this folder: it also holds {foreign[0]!r}", file=folder)
