"""Ids: their canonical form, and the sorted index from ids to row numbers.

The canonical form of an id is its string: the integer 12 and the string "12" are one id, "012", "1e3" and " 12" are
others. An id has 1 to 256 bytes of UTF-8 and no NUL. What is no id (a NUL, a lone surrogate, a float, an empty
string, 257 bytes) is never an error at lookup: nothing is stored under it, so it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ranktower.errors import DataError

MAX_ID_BYTES = 256
NO_ID = ""
"""Stands for whatever can be no id; nothing is ever stored under the empty string."""

# int64 in the form that str gives it. Nineteen digits may still be too large, which the values tell afterwards.
_INTEGER = "(?:-?[1-9][0-9]{0,18}|0)"
_ONE_INTEGER = re.compile(_INTEGER)
_INTEGERS = re.compile(f"{_INTEGER}(?:,{_INTEGER})*+")
_INT64 = np.iinfo(np.int64)
_BLOCK = 65_536  # ids parsed at once: bounds the temporary lists


def canonical_texts(ids: Sequence[object]) -> list[str]:
    """The string each id stands for, ``NO_ID`` for what is of a type that no id has."""
    types = set(map(type, ids))
    if types == {str}:
        return list(ids)  # type: ignore[arg-type]
    if types <= {str, int}:
        try:
            return list(map(str, ids))
        except ValueError:  # Python prints no integer of more than 4,300 digits
            pass
    return [_canonical_text(one) for one in ids]


def _canonical_text(one: object) -> str:
    if isinstance(one, str):
        return str(one)
    if isinstance(one, (bool, np.bool_)) or not isinstance(one, (int, np.integer)):
        return NO_ID
    try:
        return str(int(one))
    except ValueError:
        return NO_ID


def encode_ids(ids: Sequence[object]) -> list[bytes]:
    """UTF-8 of the canonical form of each id; empty for what is no id. The length is not limited."""
    texts = canonical_texts(ids)
    if not texts:
        return []
    # One conversion for all; a NUL inside an id shows in the number of parts, a lone surrogate in the error.
    try:
        encoded = "\0".join(texts).encode("utf-8").split(b"\0")
    except UnicodeEncodeError:
        encoded = []
    return encoded if len(encoded) == len(texts) else [_encode_text(text) for text in texts]


def _encode_text(text: str) -> bytes:
    try:
        return b"" if "\0" in text else text.encode("utf-8")
    except UnicodeEncodeError:
        return b""


def parse_integers(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which strings are the canonical form of an int64, and their values.

    Returns:
        ``(values, is_integer)``, both [n]; a value is 0 where the string is none.
    """
    joined = ",".join(texts)
    if _INTEGERS.fullmatch(joined):
        values = np.fromstring(joined, dtype=np.int64, sep=",")
        # An id with a comma in it makes too many values; one too large for int64 becomes the largest there is.
        if len(values) == len(texts) and values.max() < _INT64.max and values.min() > _INT64.min:
            return values, np.ones(len(texts), dtype=np.bool_)
    numbers = [int(text) if _ONE_INTEGER.fullmatch(text) else None for text in texts]
    good = [number is not None and _INT64.min <= number <= _INT64.max for number in numbers]
    kept = [number if fits else 0 for number, fits in zip(numbers, good, strict=True)]
    return np.array(kept, dtype=np.int64), np.array(good, dtype=np.bool_)


def table_keys(ids: Sequence[object] | NDArray[np.generic], *, source: object) -> NDArray[np.generic]:
    """The keys of a table's rows, unsorted: int64 if every id is such an integer, otherwise UTF-8 ``S<width>``.

    Args:
        source: the file or folder that a DataError names.

    Raises:
        DataError: something is no id; names the row.
    """
    encoded: list[bytes] = []
    integers: list[NDArray[np.int64]] | None = []
    for start, block in _blocks(ids):
        keys = encode_ids(block)
        for row, key in enumerate(keys):
            if not 0 < len(key) <= MAX_ID_BYTES:
                problem = f"{_shown(block[row])} is not an id (1 to {MAX_ID_BYTES} bytes, no NUL)"
                raise DataError(problem, file=source, column="id", row=start + row)
        encoded.extend(keys)
        if integers is not None:
            values, good = parse_integers(canonical_texts(block))
            integers = [*integers, values] if good.all() else None
    if integers is not None:
        return np.concatenate(integers) if integers else np.zeros(0, dtype=np.int64)
    return np.array(encoded)


def _shown(one: object) -> str:
    try:
        return f"{one!r:.100}"
    except ValueError:
        return "an integer of more than 4,300 digits"


def _blocks(ids: Sequence[object] | NDArray[np.generic]) -> Iterator[tuple[int, list[object]]]:
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        yield start, block.tolist() if isinstance(block, np.ndarray) else list(block)


class IdIndex:
    """Row numbers by id: binary search in the sorted keys, no dictionary, so that opening costs nothing."""

    def __init__(self, keys: NDArray[np.generic]) -> None:
        """``keys`` [n], ascending: int64, or ``S<width>`` in byte order."""
        # A plain view: every operation on a memmap costs a few microseconds more.
        self._keys = keys.view(np.ndarray)

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._keys)

    def find(self, ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where ids stand.

        Returns:
            ``(rows, present)``: the row numbers of the ids found, in the order of ``ids`` [k], and [n] True for those.
        """
        if not len(self._keys) or not len(ids):
            return np.zeros(0, dtype=np.int64), np.zeros(len(ids), dtype=np.bool_)
        if self._keys.dtype.kind == "i":
            wanted, present = _wanted_integers(ids)
        else:
            wanted, present = self._wanted_bytes(ids)
        rows = np.searchsorted(self._keys, wanted)
        np.minimum(rows, len(self._keys) - 1, out=rows)
        present &= self._keys[rows] == wanted
        return (rows if present.all() else rows[present]), present

    def texts(self, rows: NDArray[np.integer] | slice) -> list[str]:
        """The canonical ids of some rows."""
        keys = self._keys[rows].tolist()
        return [key.decode("utf-8") for key in keys] if self._keys.dtype.kind == "S" else list(map(str, keys))

    def _wanted_bytes(self, ids: Sequence[object]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        # One byte more than a key has, so that an id that is too long shows and is not cut down to another id.
        width = self._keys.dtype.itemsize
        wanted = np.array(encode_ids(ids), dtype=f"S{width + 1}")
        fits = wanted.view(np.uint8).reshape(len(wanted), width + 1)[:, width] == 0
        return wanted.astype(self._keys.dtype), fits


def _wanted_integers(ids: Sequence[object]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    if set(map(type, ids)) == {int}:
        try:
            return np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
        except OverflowError:
            pass
    return parse_integers(canonical_texts(ids))
