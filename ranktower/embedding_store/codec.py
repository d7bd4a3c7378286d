"""The bytes of one stored row: release tag, then the row's arrays. Specified in ``docs/formats.md``.

Axes: ``n`` rows, ``H`` sub-spaces (heads) of the side, ``D`` embedding width, ``A`` attention width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ranktower.errors import DataError

Side = Literal["user", "item"]
RowDtype = Literal["float16", "float32"]
RowKind = Literal["embedding", "projected"]
SIDES: tuple[Side, ...] = get_args(Side)
ROW_DTYPES: tuple[RowDtype, ...] = get_args(RowDtype)
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
ARRAYS = ("embedding", "query", "key", "value", "gate")
TAG_SIZE = 8  # bytes

_CODES: dict[str, str] = {"float16": "<f2", "float32": "<f4"}


@dataclass(frozen=True)
class RowLayout:
    """How one side's rows are laid out in a release.

    A row of kind ``embedding`` holds the multi-embedding alone; one of kind ``projected`` holds query, key, value and
    gate behind it. So the former is the beginning of the latter.
    """

    heads: int
    width: int
    attention_width: int
    dtype: RowDtype
    tag: bytes
    kind: RowKind = "projected"

    def __post_init__(self) -> None:
        """Refuse a layout that no row can have."""
        for name in ("heads", "width", "attention_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.dtype not in _CODES:
            raise ValueError(f"dtype must be one of {', '.join(_CODES)}, got {self.dtype!r}")
        if self.kind not in ROW_KINDS:
            raise ValueError(f"kind must be one of {', '.join(ROW_KINDS)}, got {self.kind!r}")
        if len(self.tag) != TAG_SIZE:
            raise ValueError(f"tag must have {TAG_SIZE} bytes, got {len(self.tag)}")

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the row's arrays, in the order of the bytes."""
        return ARRAYS if self.kind == "projected" else ARRAYS[:1]

    @property
    def row_size(self) -> int:
        """Bytes of one row, the tag included."""
        num_values = sum(heads * width for heads, width in map(self.shape, self.arrays))
        return TAG_SIZE + self._itemsize * num_values

    @property
    def embedding_size(self) -> int:
        """Bytes of the row's beginning that is a row of kind ``embedding``."""
        return TAG_SIZE + self._itemsize * self.heads * self.width

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
        for array in self.arrays:
            heads, width = self.shape(array)
            ranges[array] = slice(start, start + self._itemsize * heads * width)
            start = ranges[array].stop
        return ranges

    def encode(self, arrays: Mapping[str, NDArray[np.floating]]) -> NDArray[np.uint8]:
        """Rows of bytes ``[n, row_size]`` of the row's arrays, each ``[n, H, D or A]``; others are left out.

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
        missing = [array for array in self.arrays if array not in arrays]
        if missing:
            raise ValueError(f"arrays: {', '.join(missing)} missing; a row has {', '.join(self.arrays)}")
        num_rows = len(arrays["embedding"])
        for array in self.arrays:
            expected = (num_rows, *self.shape(array))
            if arrays[array].shape != expected:
                raise ValueError(f"{array}: shape {arrays[array].shape}, expected {expected}")
        return num_rows

    def values(self, raw: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Rows ``raw [n, row_size]`` as ``scorer.onnx`` takes them: ``[n, row_size / itemsize]`` in the row's dtype,
        the tag's bytes in front included. No copy is made."""
        return self._checked(raw).view(_CODES[self.dtype])

    def decode(self, raw: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The arrays of rows ``raw [n, row_size]``, each widened to C-contiguous float32 ``[n, H, D or A]``.

        The tag is not looked at: rows of a store's ``fetch`` have been checked already.
        """
        self._checked(raw)
        return {
            array: raw[:, part].view(_CODES[self.dtype]).astype(np.float32).reshape(len(raw), *self.shape(array))
            for array, part in self.slices().items()
        }

    def _checked(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if raw.shape != (len(raw), self.row_size):
            raise ValueError(f"raw: shape {raw.shape}, expected ({len(raw)}, {self.row_size})")
        return raw

    def valid(self, raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """[n]: True where a row of ``raw [n, row_size]`` carries this release's tag."""
        if not len(raw):
            return np.zeros(0, dtype=np.bool_)
        tags = raw[:, :TAG_SIZE].view("<u8")[:, 0]
        return np.asarray(tags == np.uint64(int.from_bytes(self.tag, "little")), dtype=np.bool_)

    def no_rows(self, num_ids: int) -> Rows:
        """What a store answers that holds none of ``num_ids`` ids."""
        return Rows(self, np.empty((0, self.row_size), dtype=np.uint8), np.zeros(num_ids, dtype=np.bool_))

    def decode_values(self, values: Sequence[bytes | None]) -> Rows:
        """The rows among a key-value store's answers, None for an absent key: one join and one ``frombuffer``."""
        size = self.row_size
        if None not in values and set(map(len, values)) == {size}:  # type: ignore[arg-type]  # none is None here
            present, num_stored = np.ones(len(values), dtype=np.bool_), len(values)
        else:
            present = np.array([value is not None and len(value) == size for value in values], dtype=np.bool_)
            num_stored = len(values) - sum(value is None for value in values)
            values = [value for value in values if value is not None and len(value) == size]
        joined = b"".join(values)  # type: ignore[arg-type]  # none is None here
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
        return Rows(self, raw, present, num_rejected=num_stored - len(raw))


@dataclass(frozen=True)
class Rows:
    """What a store found of the ids of one request."""

    layout: RowLayout
    raw: NDArray[np.uint8]
    """[k, row_size]: the rows found, in the order of the request; possibly read-only."""
    present: NDArray[np.bool_]
    """[n]: True where the id has a row; ``present.sum() == k``."""
    num_rejected: int = 0
    """How many stored values were of a wrong size or carried another release's tag; they count as missing."""

    def __len__(self) -> int:
        """How many rows were found."""
        return len(self.raw)

    def whole(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """The rows ``[m, row_size]``, or those at the given places among the k found."""
        if chosen is None:
            return self.raw
        return self.raw[chosen]

    def in_place(
        self, chosen: NDArray[np.intp] | slice | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """See ``StoredRows.in_place``."""
        return (self.raw, chosen) if isinstance(chosen, np.ndarray) else (self.whole(chosen), None)

    def embeddings(self, chosen: NDArray[np.intp] | slice | None = None) -> NDArray[np.uint8]:
        """As ``whole``, but of each row only what a row of kind ``embedding`` is; contiguous."""
        return np.ascontiguousarray(self.whole(chosen)[:, : self.layout.embedding_size])
