"""The embedded store: tables that lie in the release, memory-mapped and shared by all processes of a machine.

A table is a folder with ``ids.npy`` (the sorted ids), ``rows.bin`` (the rows in the same order, nothing else) and
``slots.npy`` (the hash table from ids to row numbers).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import TAG_SIZE, RowLayout, Rows, Side
from ranktower.embedding_store.durable import write_file
from ranktower.embedding_store.ids import MAX_ID_BYTES
from ranktower.embedding_store.native_ids import open_index
from ranktower.embedding_store.protocol import StoredRows
from ranktower.embedding_store.slots import SLOTS_PER_ROW, WORD_BYTES
from ranktower.errors import ReleaseError
from ranktower.release import FALLBACK_USER, TABLES, Manifest

if TYPE_CHECKING:
    from ranktower.embedding_store.overlay import Overlay

IDS_FILE = "ids.npy"
ROWS_FILE = "rows.bin"
SLOTS_FILE = "slots.npy"


class LocalTable:
    """One side's table, read-only. Opening reads headers only, whatever the number of rows."""

    def __init__(self, folder: Path, layout: RowLayout, *, native: bool = True) -> None:
        """Map the three files of ``folder``; ReleaseError if they cannot be a table of this layout.

        ``native`` False: ids are looked up in Python even where the package ranktower-native is installed.
        """
        self.layout = layout
        self._path = folder / ROWS_FILE
        self._rows = _map_rows(self._path, layout.row_size)
        keys = map_keys(folder / IDS_FILE)
        if len(keys) != len(self._rows):
            raise ReleaseError(f"{folder}: {len(keys)} ids in {IDS_FILE}, {len(self._rows)} rows in {ROWS_FILE}")
        slots = map_slots(folder / SLOTS_FILE, num_rows=len(keys))
        self._index = open_index(keys, slots, rows=self._rows, tag=layout.tag, native=native)
        self._embeddings = _column(self._rows, np.dtype((np.void, layout.embedding_size)))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def fetch(self, ids: Sequence[object]) -> Rows:
        """The rows of ``ids``; see ``ranktower.embedding_store.ids`` for which ids are the same."""
        if len(ids) == 1:  # a request's user
            row = self._index.find_one(ids[0])
            if row is not None and self._rows[row, :TAG_SIZE].tobytes() == self.layout.tag:
                return Rows(self.layout, self._rows[row : row + 1], np.ones(1, dtype=np.bool_))
            return replace(self.layout.no_rows(1), num_rejected=int(row is not None))
        positions, present = self._index.find(ids)
        return self.layout.reject(self._rows.take(positions, axis=0), present, num_stored=len(positions))

    def locate(self, ids: Sequence[object]) -> LocatedRows:
        """Where the rows of ``ids`` are. Of each only the tag is read: a row of another release counts as missing."""
        return LocatedRows(self, *self._index.find_valid(ids))

    def find(self, ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row numbers of the ids found [k], and which were found [n]."""
        return self._index.find(ids)

    def rows_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Rows ``[k, row_size]`` by row number, as ``find`` gives them; tags unchecked."""
        return self._rows.take(positions, axis=0)

    def in_place(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """The mapped rows, and which of them: as ``StoredRows.in_place``, by row number."""
        return self._rows, positions

    def embeddings_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The beginnings ``[k, embedding_size]`` of rows by row number: a projected row is five times as long."""
        found: NDArray[np.uint8] = self._embeddings[positions].view(np.uint8)
        return found.reshape(len(positions), self.layout.embedding_size)

    def ids_at(self, positions: NDArray[np.integer] | slice) -> list[str]:
        """Canonical ids by row number."""
        return self._index.texts(positions)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        """Ids and rows ``[<= batch_size, row_size]``, in the table's order, from row ``start`` on."""
        # Read, not mapped: the mapping is told not to read ahead, which here is all that counts.
        with self._path.open("rb") as file:
            file.seek(start * self.layout.row_size)
            for first in range(start, len(self), batch_size):
                part = slice(first, min(first + batch_size, len(self)))
                raw = np.fromfile(file, dtype=np.uint8, count=(part.stop - first) * self.layout.row_size)
                yield self._index.texts(part), raw.reshape(-1, self.layout.row_size)


class RowTable(Protocol):
    """What is asked of a ``LocalTable``, whether or not an overlay lies in front of it."""

    layout: RowLayout

    def fetch(self, ids: Sequence[object]) -> Rows:
        """The rows of ``ids``."""
        ...

    def locate(self, ids: Sequence[object]) -> LocatedRows:
        """Where the rows of ``ids`` are."""
        ...

    def rows_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Rows by row number."""
        ...

    def in_place(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """As ``StoredRows.in_place``, by row number."""
        ...

    def embeddings_at(self, positions: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The beginnings of rows by row number."""
        ...


@dataclass(frozen=True, slots=True)
class LocatedRows:
    """Rows of a table that were looked up and not read yet: how much of them to read depends on the time there is."""

    table: RowTable
    positions: NDArray[np.int64]
    """[k]: row numbers, in the order of the request."""
    present: NDArray[np.bool_]
    """[n]: True where the id has a row; ``present.sum() == k``."""
    num_rejected: int = 0
    """How many rows carried another release's tag; they count as missing."""

    @property
    def layout(self) -> RowLayout:
        """Of the whole rows."""
        return self.table.layout

    def __len__(self) -> int:
        """How many rows were found."""
        return len(self.positions)

    def whole(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """The rows ``[m, row_size]``, or those at the given places among the k found."""
        return self.table.rows_at(self.positions if chosen is None else self.positions[chosen])

    def in_place(
        self, chosen: NDArray[np.intp] | slice | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """See ``StoredRows.in_place``."""
        return self.table.in_place(self.positions if chosen is None else self.positions[chosen])

    def embeddings(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """As ``whole``, but of each row only what a row of kind ``embedding`` is."""
        return self.table.embeddings_at(self.positions if chosen is None else self.positions[chosen])


class LocalStore:
    """The tables of one release as an ``EmbeddingStore``; nothing in it ever waits."""

    def __init__(self, release_dir: Path, manifest: Manifest) -> None:
        """Open the tables the manifest lists; a side without one has every id missing.

        Raises:
            ReleaseError: a table does not fit the manifest.
        """
        self.tables: dict[Side, LocalTable] = {}
        for side, name in TABLES.items():
            if not manifest.has_table(side):
                continue
            table = LocalTable(release_dir / name, manifest.layout(side))
            if len(table) != manifest.num_rows(side):
                raise ReleaseError(f"{release_dir / name}: {len(table)} rows, manifest says {manifest.num_rows(side)}")
            self.tables[side] = table
        self._layouts: dict[Side, RowLayout] = {side: manifest.layout(side) for side in TABLES}
        self._created_s = manifest.created.timestamp()
        self.use_overlay(None)

    def cover(self, overlay: Overlay | None) -> Mapping[Side, RowTable]:
        """The tables with an overlay in front. This is work; any thread may do it."""
        if overlay is None:
            return self.tables
        covered = {side: overlay.cover(side, self.tables.get(side)) for side in TABLES}
        return {side: table for side, table in covered.items() if table is not None}

    def use_overlay(self, overlay: Overlay | None, covered: Mapping[Side, RowTable] | None = None) -> None:
        """From now on an overlay's rows win over those of the release's tables; ``covered``: what ``cover`` gave."""
        self.overlay = overlay
        self._covered = self.cover(overlay) if covered is None else covered

    def find(self, side: Side, ids: Sequence[str | int]) -> Rows:
        """``fetch`` for a caller that need not await: nothing in it ever waits."""
        table = self._covered.get(side)
        return self._layouts[side].no_rows(len(ids)) if table is None else table.fetch(ids)

    def locate(self, side: Side, ids: Sequence[str | int]) -> StoredRows:
        """``find``, but the rows are read later, when it is known how much of them is needed."""
        table = self._covered.get(side)
        return self._layouts[side].no_rows(len(ids)) if table is None else table.locate(ids)

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        """The rows of ``ids``; ``timeout_s`` is not needed, for nothing is waited for."""
        return self.find(side, ids)

    def find_times(self, side: Side, ids: Sequence[str | int]) -> NDArray[np.float64]:
        """When the rows of ``ids`` were computed, [n]: seconds since the epoch, NaN for an id without a row."""
        times_s = np.full(len(ids), np.nan)
        if side in self.tables:
            times_s[self.tables[side].locate(ids).present] = self._created_s
        over = self.overlay.tables.get(side) if self.overlay else None
        if over is not None:
            rows, present = over.find(ids)
            times_s[present] = over.times_s[rows]
        return times_s

    async def fetch_times(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> NDArray[np.float64]:
        """``find_times``; ``timeout_s`` is not needed, for nothing is waited for."""
        return self.find_times(side, ids)

    async def ping(self) -> None:
        """Always well: an open mapping does not go away."""

    async def close(self) -> None:
        """Let go of the mappings; the system unmaps each once the last array on it is gone."""
        self.tables = {}
        self.use_overlay(None)


def write_fallback_user(folder: Path, layout: RowLayout, arrays: Mapping[str, NDArray[np.floating]]) -> None:
    """Store the row for users nothing is known of; the arrays of the layout are ``[1, Hu, D or A]``."""
    raw = layout.encode(arrays)
    if len(raw) != 1:
        raise ValueError(f"arrays: {len(raw)} rows, the fallback user is one")
    write_file(folder / FALLBACK_USER, raw.tobytes())


def read_fallback_user(folder: Path, manifest: Manifest) -> NDArray[np.uint8] | None:
    """The fallback user's row ``[1, row_size]``, None if the release has none; ReleaseError if it is no row."""
    if not manifest.fallback_user:
        return None
    path = folder / FALLBACK_USER
    try:
        rows = manifest.layout("user").decode_values([path.read_bytes()])
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    if rows.num_rejected:
        raise ReleaseError(f"{path}: not a user row of release {manifest.release}")
    return rows.raw


def _map_rows(path: Path, row_size: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes % row_size:
                raise ReleaseError(f"{path}: {size_bytes} bytes are not whole rows of {row_size} bytes")
            if not size_bytes:  # an empty file cannot be mapped
                return np.empty((0, row_size), dtype=np.uint8)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    # Rows are asked for one here, one there. Reading ahead of each would bring 100 times the bytes from the disk.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=np.uint8).reshape(-1, row_size)


def _column(rows: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The first bytes of each row as one value, ``[n]``, without a copy."""
    return np.ndarray(
        (len(rows),), dtype=dtype, buffer=rows if len(rows) else bytes(dtype.itemsize), strides=rows.strides[:1]
    )


def map_keys(path: Path) -> NDArray[np.generic]:
    """The keys in ``ids.npy`` [n], mapped; ReleaseError if it is no such file."""
    keys = _map_array(path)
    if keys.ndim != 1 or (keys.dtype != np.dtype("<i8") and keys.dtype.kind != "S"):
        raise ReleaseError(f"{path}: dtype {keys.dtype.str}, {keys.ndim} axes; expected int64 or S<width> and one axis")
    if not keys.itemsize or keys.itemsize % WORD_BYTES:
        raise ReleaseError(f"{path}: keys of {keys.itemsize} bytes; expected a multiple of {WORD_BYTES}")
    if keys.itemsize > MAX_ID_BYTES:
        raise ReleaseError(f"{path}: keys of {keys.itemsize} bytes; expected at most {MAX_ID_BYTES}")
    return keys


def map_slots(path: Path, *, num_rows: int) -> NDArray[np.uint64]:
    """The hash table in ``slots.npy``, mapped; ReleaseError if it cannot be one of ``num_rows`` ids."""
    if not path.exists():
        raise ReleaseError(f"{path}: missing; the table is of an older version, run ranktower precompute again")
    slots = _map_array(path)
    if slots.ndim != 1 or slots.dtype != np.dtype("<u8"):
        raise ReleaseError(f"{path}: dtype {slots.dtype.str}, {slots.ndim} axes; expected uint64 and one axis")
    if len(slots) <= num_rows * SLOTS_PER_ROW:
        raise ReleaseError(f"{path}: {len(slots)} slots; {num_rows} ids need more than {num_rows * SLOTS_PER_ROW}")
    return slots


def _map_array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ReleaseError(f"{path}: not a NumPy file: {error}") from error
    return array
