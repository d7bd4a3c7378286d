"""Rows computed after a release was published, in front of its tables; specified in ``docs/formats.md``.

``<registry>/<model>/.deltas/<release>/<sequence>/`` is an overlay, ``current`` beside it names the one that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ranktower.embedding_store.codec import RowLayout, Rows, Side
from ranktower.embedding_store.local import IDS_FILE, ROWS_FILE, SLOTS_FILE, LocalTable, LocatedRows, RowTable
from ranktower.errors import ReleaseError
from ranktower.release import TABLES, FileEntry, Manifest
from ranktower.verification import hash_file

DELTAS = ".deltas"
OVERLAY_POINTER = "current"
TIMES_FILE = "times.npy"
_BATCH_ROWS = 65_536
OVERLAY_FILES = (IDS_FILE, ROWS_FILE, SLOTS_FILE, TIMES_FILE)


class OverlayPointer(BaseModel):
    """Which overlay of a release counts, and what its files must be, to the byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    sequence: int = Field(ge=1)
    """Name of its folder; each overlay holds the rows of the one before, if no newer ones."""
    created_s: int = Field(ge=0)
    """When its newest rows were computed, in seconds since the epoch."""
    num_users: int = Field(ge=0)
    num_items: int = Field(ge=0)
    files: dict[str, FileEntry]
    """By their paths relative to the overlay's folder, with "/"; a side without rows has none."""

    def num_rows(self, side: Side) -> int:
        """How many rows of a side the overlay holds."""
        return self.num_users if side == "user" else self.num_items

    def to_bytes(self) -> bytes:
        """JSON, one line."""
        return self.model_dump_json().encode("utf-8") + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str) -> OverlayPointer:
        """The pointer in ``content``; ``source`` names it in the ReleaseError of a wrong one."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ReleaseError(f"{source}: not an overlay's pointer: {key}: {first['msg']}") from error


def deltas_dir(release_dir: Path) -> Path:
    """Where the overlays of the release in ``release_dir`` lie, or would."""
    return release_dir.parent / DELTAS / release_dir.name


def read_overlay_pointer(deltas: Path) -> OverlayPointer | None:
    """The pointer of a release's overlays, None where it has none; ReleaseError if it cannot be read."""
    path = deltas / OVERLAY_POINTER
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    return OverlayPointer.from_bytes(content, source=str(path))


class OverlayTable(LocalTable):
    """One side's rows of an overlay, each with the time it was computed at."""

    times_s: NDArray[np.int64]
    """[n]: seconds since the epoch, by row number."""

    def __init__(self, folder: Path, layout: RowLayout) -> None:
        """Map the table; ReleaseError if it is none, if a row is of another release, or if the times do not fit."""
        super().__init__(folder, layout)
        if not all(layout.valid(raw).all() for _, raw in self.batches(_BATCH_ROWS)):
            raise ReleaseError(f"{folder / ROWS_FILE}: holds rows of another release")
        path = folder / TIMES_FILE
        try:
            self.times_s = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ReleaseError(f"{path}: cannot be read: {error}") from error
        if self.times_s.dtype != np.dtype("<i8") or self.times_s.shape != (len(self),):
            found = f"{self.times_s.dtype.str} of shape {self.times_s.shape}"
            raise ReleaseError(f"{path}: {found}; expected <i8 of shape ({len(self)},)")


class OverlaidTable:
    """A release's table with an overlay's in front. Row numbers of the overlay go on behind those of the table."""

    def __init__(self, table: LocalTable, over: OverlayTable) -> None:
        """``table`` must have a row at least. Looks up every id of ``over``, a microsecond each."""
        self.layout = table.layout
        self._table = table
        self._over = over
        below, above = common_rows(table, over)
        order = np.argsort(below)
        self._replaced, self._replacing = below[order], above[order] + len(table)
        # A byte a row of the table: whether one is replaced is then a single look, and few are.
        self._is_replaced = np.zeros(len(table), dtype=np.bool_)
        self._is_replaced[below] = True

    def fetch(self, ids: Sequence[object]) -> Rows:
        """The rows of ``ids``, the overlay's where it has one."""
        if len(ids) == 1:  # a request's user
            found = self._over.fetch(ids)
            return found if len(found) else self._table.fetch(ids)
        located = self.locate(ids)
        return Rows(self.layout, located.whole(), located.present, located.num_rejected)

    def locate(self, ids: Sequence[object]) -> LocatedRows:
        """Where the rows of ``ids`` are."""
        under = self._table.locate(ids)
        absent = np.flatnonzero(~under.present)
        new, is_new = self._over.find([ids[place] for place in absent.tolist()])
        changed = np.flatnonzero(self._is_replaced.take(under.positions))
        if not len(new) and not len(changed):
            return under
        positions = under.positions.copy()
        positions[changed] = self._replacing[np.searchsorted(self._replaced, positions[changed])]
        if not len(new):
            return LocatedRows(self, positions, under.present, under.num_rejected)
        everywhere = np.empty(len(ids), dtype=np.int64)
        everywhere[under.present] = positions
        everywhere[absent[is_new]] = new + len(self._table)
        present = under.present.copy()
        present[absent[is_new]] = True
        return LocatedRows(self, everywhere[present], present, under.num_rejected)

    def rows_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Rows ``[k, row_size]`` by row number; tags unchecked."""
        below, over, places = self._split(positions)
        rows = self._table.rows_at(below)
        rows[places] = self._over.rows_at(over)
        return rows

    def in_place(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """The mapped rows of the table where no row is the overlay's, else copies."""
        if positions.max(initial=-1) < len(self._table):
            return self._table.in_place(positions)
        return self.rows_at(positions), None

    def embeddings_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The beginnings ``[k, embedding_size]`` of rows by row number."""
        below, over, places = self._split(positions)
        rows = self._table.embeddings_at(below)
        rows[places] = self._over.embeddings_at(over)
        return rows

    def _split(
        self, positions: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.intp]]:
        """Row numbers in the table [k], any where the row is the overlay's; those in the overlay, and their places."""
        num_below = len(self._table)
        places = np.flatnonzero(positions >= num_below)
        return np.minimum(positions, num_below - 1), positions[places] - num_below, places


def common_rows(table: LocalTable, over: OverlayTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers in both, of the ids that both have, in the order of ``over``."""
    below, above = [], []
    for start in range(0, len(over), _BATCH_ROWS):
        rows = np.arange(start, min(start + _BATCH_ROWS, len(over)))
        found, present = table.find(over.ids_at(rows))
        below.append(found)
        above.append(rows[present])
    return np.concatenate(below), np.concatenate(above)


@dataclass(frozen=True)
class Overlay:
    """One overlay, open."""

    pointer: OverlayPointer
    tables: Mapping[Side, OverlayTable]
    """Without the sides it has no rows of."""

    def cover(self, side: Side, table: LocalTable | None) -> RowTable | None:
        """The side's table with this overlay in front, None where there is neither."""
        over = self.tables.get(side)
        if over is None:
            return table
        return OverlaidTable(table, over) if table is not None and len(table) else over


def open_overlay(deltas: Path, pointer: OverlayPointer, manifest: Manifest) -> Overlay:
    """The overlay that ``pointer`` names, every byte of it verified.

    Raises:
        ReleaseError: a file is missing or differs from what the pointer says, or is no part of an overlay.
    """
    folder = deltas / str(pointer.sequence)
    sides = [side for side in TABLES if pointer.num_rows(side)]
    expected = {f"{TABLES[side]}/{name}" for side in sides for name in OVERLAY_FILES}
    if pointer.release != manifest.release or pointer.files.keys() != expected:
        raise ReleaseError(f"{deltas / OVERLAY_POINTER}: not of an overlay of release {manifest.release}")
    for path, entry in pointer.files.items():
        try:
            found = hash_file(folder / path)
        except OSError as error:
            raise ReleaseError(f"{folder / path}: cannot be read: {error.strerror}") from error
        if found != entry:
            found_text, expected_text = (f"{one.size_bytes} bytes, SHA-256 {one.sha256}" for one in (found, entry))
            raise ReleaseError(f"{folder / path}: {found_text}; {OVERLAY_POINTER} says {expected_text}")
    tables = {side: OverlayTable(folder / TABLES[side], manifest.layout(side)) for side in sides}
    for side, table in tables.items():
        if len(table) != pointer.num_rows(side):
            raise ReleaseError(f"{folder}: {len(table)} {side}s, {OVERLAY_POINTER} says {pointer.num_rows(side)}")
    return Overlay(pointer, tables)
