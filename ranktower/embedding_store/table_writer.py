"""Writes a local table in batches, with memory for one batch and the ids, and goes on where a killed run stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import TAG_SIZE, RowLayout
from ranktower.embedding_store.durable import fsync_folder
from ranktower.embedding_store.ids import table_keys
from ranktower.embedding_store.local import IDS_FILE, ROWS_FILE, SLOTS_FILE, map_keys, map_slots
from ranktower.embedding_store.slots import MAX_ROWS, SLOTS_PER_ROW, build_slots
from ranktower.errors import DataError, ReleaseError

_PART = ROWS_FILE + ".part"
_PROGRESS = "progress.json"


class TableWriter:
    """A table under construction.

    The rows of a finished table stand in the order of their ids, so the writer wants them in that order: ``order``
    says which of the caller's rows comes when. Sorting the ids first costs little; sorting the rows afterwards would
    move the whole table. Use it as a context manager::

        with TableWriter(folder, ids, layout) as writer:
            for start in range(writer.rows_done, len(ids), batch_size):
                writer.write(start, tower(features[writer.order[start : start + batch_size]]))
            writer.finish()

    Until ``finish`` the folder holds ``rows.bin.part`` and ``progress.json``. The same ids and layout in the same
    folder continue at ``rows_done``; others start anew.
    """

    order: NDArray[np.int64]
    """[n]: ``order[k]`` is the position in ``ids`` of the table's row k."""
    rows_done: int
    """Rows already on the disk; the next ``write`` starts here."""

    def __init__(self, folder: Path, ids: Sequence[str | int] | NDArray[np.generic], layout: RowLayout) -> None:
        """Sort the ids, write ``ids.npy`` and ``slots.npy`` and find what an earlier run left.

        Raises:
            DataError: an id that is none, or a duplicate, names the row; or too many ids.
            ReleaseError: another process is writing this table.
        """
        self._folder = folder
        self._layout = layout
        if len(ids) > MAX_ROWS:
            raise DataError(f"{len(ids)} ids; a table holds at most {MAX_ROWS}", file=folder)
        keys = table_keys(ids, source=folder)
        self.order = np.argsort(keys, kind="stable")
        keys = keys[self.order]
        self._refuse_duplicates(keys)
        self._fingerprint = _fingerprint(keys, layout)
        folder.mkdir(parents=True, exist_ok=True)
        if self._is_finished(keys):
            self.rows_done = len(keys)
            self._file = None
            return
        self._file = os.open(folder / _PART, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._file, folder / _PART)
            self.rows_done = self._read_progress()
            os.ftruncate(self._file, self.rows_done * layout.row_size)
            if not self.rows_done:
                (folder / ROWS_FILE).unlink(missing_ok=True)  # of another table, which these ids do not belong to
                _save(folder / SLOTS_FILE, build_slots(keys))
                _save(folder / IDS_FILE, keys)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TableWriter:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; an unfinished table stays as it is, to be continued."""
        self.close()

    def write(self, start: int, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        """Store the rows ``start``, ``start + 1``, ... of the table, lasting once this returns.

        Args:
            start: must be ``rows_done``.
            arrays: the arrays of the layout, each [n, H, D or A], of the caller's rows ``order[start : start + n]``.
        """
        self.write_rows(start, self._layout.encode(arrays))

    def write_rows(self, start: int, raw: NDArray[np.uint8]) -> None:
        """``write`` for rows ``[n, row_size]`` that are encoded already."""
        if self._file is None or start != self.rows_done:
            raise ValueError(f"start: {start}, but {self.rows_done} rows are done")
        if raw.shape[1:] != (self._layout.row_size,):
            raise ValueError(f"raw: shape {raw.shape}, expected [n, {self._layout.row_size}]")
        if start + len(raw) > len(self.order):
            raise ValueError(f"arrays: {start + len(raw)} rows for {len(self.order)} ids")
        _write_at(self._file, raw, start * self._layout.row_size)
        # The rows are on the disk before the progress says so, or a power cut would leave rows of zeros.
        os.fsync(self._file)
        self.rows_done += len(raw)
        aside = self._folder / (_PROGRESS + ".part")
        aside.write_text(json.dumps({"fingerprint": self._fingerprint, "rows_done": self.rows_done}))
        aside.replace(self._folder / _PROGRESS)

    def finish(self) -> None:
        """Give the complete table its name; ValueError if rows are missing."""
        if self.rows_done != len(self.order):
            raise ValueError(f"{self.rows_done} of {len(self.order)} rows are done")
        if self._file is not None:
            os.fsync(self._file)
            (self._folder / _PART).replace(self._folder / ROWS_FILE)
            self.close()
        for leftover in (_PROGRESS, _PROGRESS + ".part"):
            (self._folder / leftover).unlink(missing_ok=True)
        fsync_folder(self._folder)

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _refuse_duplicates(self, keys: NDArray[np.generic]) -> None:
        same = np.flatnonzero(keys[1:] == keys[:-1])
        if len(same):
            key = keys[same[0]].item()
            text = key.decode("utf-8") if isinstance(key, bytes) else str(key)
            first, second = (int(self.order[same[0] + step]) for step in (0, 1))
            raise DataError(f"duplicate id {text!r}, also in row {first}", file=self._folder, column="id", row=second)

    def _read_progress(self) -> int:
        """Rows an earlier run finished, 0 if it wrote something else or its progress cannot be read."""
        try:
            progress = json.loads((self._folder / _PROGRESS).read_text())
            rows_done = progress["rows_done"] if progress["fingerprint"] == self._fingerprint else 0
            size_bytes = (self._folder / _PART).stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        fits = isinstance(rows_done, int) and 0 <= rows_done * self._layout.row_size <= size_bytes
        return rows_done if fits and rows_done <= len(self.order) else 0

    def _is_finished(self, keys: NDArray[np.generic]) -> bool:
        """Whether the folder already holds this very table: an earlier run finished it and was killed later."""
        rows = self._folder / ROWS_FILE
        if not rows.is_file() or rows.stat().st_size != len(keys) * self._layout.row_size:
            return False
        with rows.open("rb") as file:
            same_release = not len(keys) or file.read(TAG_SIZE) == self._layout.tag
        try:
            found = map_keys(self._folder / IDS_FILE)
            map_slots(self._folder / SLOTS_FILE, num_rows=len(found))
        except ReleaseError:
            return False
        return same_release and found.dtype == keys.dtype and np.array_equal(found, keys)


def write_table(
    folder: Path,
    ids: Sequence[str | int] | NDArray[np.generic],
    compute: Callable[[NDArray[np.int64]], Mapping[str, NDArray[np.floating]]],
    layout: RowLayout,
    *,
    batch_size: int = 4096,
    on_batch: Callable[[int], object] = lambda num_rows: None,
) -> None:
    """Write a whole table, or the rest of one.

    Args:
        compute: from positions in ``ids`` [n] to the layout's arrays of those rows.
        on_batch: told the number of rows after each batch, and first those an earlier run had finished.
    """
    with TableWriter(folder, ids, layout) as writer:
        on_batch(writer.rows_done)
        for start in range(writer.rows_done, len(ids), batch_size):
            positions = writer.order[start : start + batch_size]
            writer.write(start, compute(positions))
            on_batch(len(positions))
        writer.finish()


def _fingerprint(keys: NDArray[np.generic], layout: RowLayout) -> str:
    # The slots among it, so that no run goes on where an older version, with other slots or none, stopped.
    digest = hashlib.sha256(f"{keys.dtype.str} {len(keys)} {layout} {SLOTS_PER_ROW} slots".encode())
    digest.update(np.ascontiguousarray(keys).view(np.uint8).data)
    return digest.hexdigest()


def _save(path: Path, array: NDArray[np.generic]) -> None:
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ReleaseError(f"{path}: another process is writing this table") from error


def _write_at(descriptor: int, raw: NDArray[np.uint8], offset: int) -> None:
    view = raw.reshape(-1).data
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
