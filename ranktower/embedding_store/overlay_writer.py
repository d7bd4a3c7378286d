"""Writes overlays: each holds the rows of the one before and the new ones, and counts once the pointer names it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout, Side
from ranktower.embedding_store.durable import fsync_folder, fsync_tree, write_file
from ranktower.embedding_store.overlay import (
    OVERLAY_POINTER,
    TIMES_FILE,
    Overlay,
    OverlayPointer,
    OverlayTable,
    open_overlay,
    read_overlay_pointer,
)
from ranktower.embedding_store.table_writer import TableWriter
from ranktower.file_lock import file_lock
from ranktower.release import TABLES, Manifest
from ranktower.verification import hash_files

_BATCH_ROWS = 4096
_LOCK = ".lock"


@dataclass(frozen=True)
class NewRows:
    """Rows of one side that an overlay is to hold."""

    ids: Sequence[str]
    raw: NDArray[np.uint8]
    """[n, row_size], of the layout of the side's table."""


@contextmanager
def alone_with_overlays(deltas: Path) -> Iterator[None]:
    """Wait until no other process writes overlays in ``deltas``."""
    deltas.mkdir(parents=True, exist_ok=True)
    with file_lock(deltas / _LOCK):
        yield


def current_overlay(deltas: Path, manifest: Manifest) -> Overlay | None:
    """The overlay that counts, None where there is none; ReleaseError if it is damaged."""
    pointer = read_overlay_pointer(deltas)
    return None if pointer is None else open_overlay(deltas, pointer, manifest)


def write_overlay(
    deltas: Path, manifest: Manifest, before: Overlay | None, new: Mapping[Side, NewRows], *, created_s: int
) -> Overlay:
    """Write the overlay that follows ``before``; it counts only once ``point_to`` names it.

    Args:
        deltas: the folder of the release's overlays, held by ``alone_with_overlays``.
        manifest: of the release.
        before: the overlay that counts now.
        new: the rows that take the place of those of ``before``, or join them.
        created_s: when they were computed.
    """
    sequence = 1 + (before.pointer.sequence if before else 0)
    folder = deltas / str(sequence)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    folder.mkdir()
    num_rows: dict[Side, int] = {}
    for side, name in TABLES.items():
        old = before.tables.get(side) if before else None
        added = new.get(side)
        num_rows[side] = _write_side(folder / name, manifest.layout(side), old, added, created_s=created_s)
    fsync_tree(folder)
    pointer = OverlayPointer(
        release=manifest.release,
        sequence=sequence,
        created_s=created_s,
        num_users=num_rows["user"],
        num_items=num_rows["item"],
        files=hash_files(folder),
    )
    return open_overlay(deltas, pointer, manifest)


def point_to(deltas: Path, pointer: OverlayPointer) -> None:
    """Let ``pointer`` count from now on. The overlay before it stays, for a service may be opening it just now."""
    fsync_folder(deltas)
    write_file(deltas / OVERLAY_POINTER, pointer.to_bytes())
    for path in deltas.iterdir():
        if path.is_dir() and path.name not in {str(pointer.sequence), str(pointer.sequence - 1)}:
            shutil.rmtree(path, ignore_errors=True)


def _write_side(
    folder: Path, layout: RowLayout, old: OverlayTable | None, new: NewRows | None, *, created_s: int
) -> int:
    """Write the table of one side, and no folder for one without rows; returns the number of rows."""
    new = new or NewRows([], np.empty((0, layout.row_size), dtype=np.uint8))
    kept = np.zeros(0, dtype=np.int64)
    ids, times_s = list(new.ids), np.full(len(new.ids), created_s, dtype=np.int64)
    if old is not None:
        kept = np.delete(np.arange(len(old)), old.find(new.ids)[0])
        ids = [*new.ids, *old.ids_at(kept)]
        times_s = np.concatenate([times_s, old.times_s[kept]])
    if not ids:
        return 0
    with TableWriter(folder, ids, layout) as writer:
        for start in range(0, len(ids), _BATCH_ROWS):
            order = writer.order[start : start + _BATCH_ROWS]
            raw = np.empty((len(order), layout.row_size), dtype=np.uint8)
            is_new = order < len(new.ids)
            raw[is_new] = new.raw[order[is_new]]
            if old is not None:
                raw[~is_new] = old.rows_at(kept[order[~is_new] - len(new.ids)])
            writer.write_rows(start, raw)
        writer.finish()
    content = io.BytesIO()
    np.save(content, times_s[writer.order], allow_pickle=False)
    write_file(folder / TIMES_FILE, content.getvalue())
    return len(ids)
