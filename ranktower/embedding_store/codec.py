"""The bytes of one stored row: release tag, then the side's five arrays. Specified in ``docs/formats.md``.

Axes: ``n`` rows, ``H`` sub-spaces (heads) of the side, ``D`` embedding width, ``A`` attention width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.half import widen_half
from ranktower.errors import DataError

Side = Literal["user", "item"]
RowDtype = Literal["float16", "float32"]
SIDES: tuple[Side, ...] = get_args(Side)
ARRAYS = ("embedding", "query", "key", "value", "gate")
TAG_SIZE = 8  # bytes

_CODES: dict[str, str] = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class Rows:
    """What a store found of the ids of one request."""

    raw: NDArray[np.uint8]
    """[k, row_size]: the rows found, in the order of the request; possibly read-only."""
    present: NDArray[np.bool_]
    """[n]: True where the id has a row; ``present.sum() == k``."""
    num_rejected: int = 0
    """How many stored values were of a wrong size or carried another release's tag; they count as missing."""


@dataclass(frozen=True)
class RowLayout:
    """How one side's rows are laid out in a release."""

    heads: int
    width: int
    attention_width: int
    dtype: RowDtype
    tag: bytes

    def __post_init__(self) -> None:
        """Refuse a layout that no row can have."""
        for name in ("heads", "width", "attention_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.dtype not in _CODES:
            raise ValueError(f"dtype must be one of {', '.join(_CODES)}, got {self.dtype!r}")
        if len(self.tag) != TAG_SIZE:
            raise ValueError(f"tag must have {TAG_SIZE} bytes, got {len(self.tag)}")

    @property
    def row_size(self) -> int:
        """Bytes of one row, the tag included."""
        return TAG_SIZE + self._itemsize * self.heads * (self.width + 4 * self.attention_width)

    @property
    def _itemsize(self) -> int:
        return np.dtype(_CODES[self.dtype]).itemsize

    def shape(self, array: str) -> tuple[int, int]:
        """``(H, D)`` for the embedding, ``(H, A)`` for query, key, value and gate."""
        return (self.heads, self.width if array == "embedding" else self.attention_width)

    def slices(self) -> dict[str, slice]:
        """Byte range of each array in a row."""
        ranges: dict[str, slice] = {}
        start = TAG_SIZE
        for array in ARRAYS:
            heads, width = self.shape(array)
            ranges[array] = slice(start, start + self._itemsize * heads * width)
            start = ranges[array].stop
        return ranges

    def empty(self, num_rows: int) -> dict[str, NDArray[np.float32]]:
        """Uninitialised float32 arrays ``[num_rows, H, D or A]`` for ``decode`` to fill."""
        return {array: np.empty((num_rows, *self.shape(array)), dtype=np.float32) for array in ARRAYS}

    def encode(self, arrays: Mapping[str, NDArray[np.floating]]) -> NDArray[np.uint8]:
        """Rows of bytes ``[n, row_size]`` of the five arrays, each ``[n, H, D or A]``.

        Raises:
            ValueError: an array is absent or of another shape.
            DataError: a value is not finite in the row's dtype; names the array and the row.
        """
        num_rows = self._num_rows(arrays)
        raw = np.empty((num_rows, self.row_size), dtype=np.uint8)
        raw[:, :TAG_SIZE] = np.frombuffer(self.tag, dtype=np.uint8)
        for array, part in self.slices().items():
            target = raw[:, part].view(_CODES[self.dtype])
            with np.errstate(over="ignore"):
                target[...] = arrays[array].reshape(target.shape)
            finite = np.isfinite(target)
            if not finite.all():
                row = int(np.flatnonzero(~finite.all(axis=1))[0])
                problem = f"a value is not finite in {self.dtype} (largest finite: {np.finfo(self.dtype).max:g})"
                raise DataError(problem, file="rows to store", column=array, row=row)
        return raw

    def _num_rows(self, arrays: Mapping[str, NDArray[np.floating]]) -> int:
        missing = [array for array in ARRAYS if array not in arrays]
        if missing:
            raise ValueError(f"arrays: {', '.join(missing)} missing; a row has {', '.join(ARRAYS)}")
        num_rows = len(arrays["embedding"])
        for array in ARRAYS:
            expected = (num_rows, *self.shape(array))
            if arrays[array].shape != expected:
                raise ValueError(f"{array}: shape {arrays[array].shape}, expected {expected}")
        return num_rows

    def decode(
        self, raw: NDArray[np.uint8], out: Mapping[str, NDArray[np.float32]] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """The five arrays of rows ``raw [n, row_size]``, each widened to C-contiguous float32 ``[n, H, D or A]``.

        The tag is not looked at: rows of a store's ``fetch`` have been checked already.

        Args:
            out: arrays of at least n rows (from ``empty``) to decode into; the first n rows of each are returned.
        """
        num_rows = len(raw)
        if raw.shape != (num_rows, self.row_size):
            raise ValueError(f"raw: shape {raw.shape}, expected ({num_rows}, {self.row_size})")
        arrays = self.empty(num_rows) if out is None else {array: out[array][:num_rows] for array in ARRAYS}
        for array, part in self.slices().items():
            target = arrays[array].reshape(num_rows, (part.stop - part.start) // self._itemsize)
            if self.dtype == "float16":
                widen_half(raw[:, part].view("<i2"), target)
            else:
                np.copyto(target, raw[:, part].view("<f4"))
        return arrays

    def valid(self, raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """[n]: True where a row of ``raw [n, row_size]`` carries this release's tag."""
        if not len(raw):
            return np.zeros(0, dtype=np.bool_)
        tags = raw[:, :TAG_SIZE].view("<u8")[:, 0]
        return np.asarray(tags == np.uint64(int.from_bytes(self.tag, "little")), dtype=np.bool_)

    def decode_values(self, values: Sequence[bytes | None]) -> Rows:
        """The rows among a key-value store's answers, None for an absent key: one join and one ``frombuffer``."""
        size = self.row_size
        present = np.array([value is not None and len(value) == size for value in values], dtype=np.bool_)
        if present.all():
            joined = b"".join(values)  # type: ignore[arg-type]  # none is None here
        else:
            joined = b"".join([value for value in values if value is not None and len(value) == size])
        num_stored = len(values) - sum(value is None for value in values)
        return self.reject(np.frombuffer(joined, dtype=np.uint8).reshape(-1, size), present, num_stored=num_stored)

    def reject(self, raw: NDArray[np.uint8], present: NDArray[np.bool_], *, num_stored: int) -> Rows:
        """Drop the rows of another release's tag from ``raw``, one row for each True of ``present``.

        Args:
            num_stored: how many ids had a stored value at all; those without a row in the result are the rejected.
        """
        good = self.valid(raw)
        if not good.all():
            present = present.copy()
            present[np.flatnonzero(present)[~good]] = False
            raw = raw[good]
        return Rows(raw=raw, present=present, num_rejected=num_stored - len(raw))
