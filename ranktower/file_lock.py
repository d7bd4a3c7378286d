"""A lock that processes hold one after the other. The system gives it back when one ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Wait until no other process is inside; ``path`` is the lock's file, made where it is missing.

    ``on_wait`` is called once before waiting, for a wait that may be long enough to be told of.
    """
    # To be written to, and a file: NFS gives no exclusive lock on what is only read, and none on a folder.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
