"""Ids to row numbers, over a table's mapped files."""

from __future__ import annotations

import ctypes
import marshal
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranktower_native.library import TAG_BYTES, Ids, NativeError, TaggedRows, library

MAX_KEY_BYTES = 256
_SLOTS_PER_KEY = 4
_WORD_BYTES = 8
_WRONG_COUNT = -1
_MARSHAL_VERSION = 2
_INT64 = np.dtype(np.int64)
_BOOL = np.dtype(np.bool_)


class Found(NamedTuple):
    """Which ids of a request have a row."""

    rows: NDArray[np.int64]
    """[k]: their row numbers, in the order of the request."""
    present: NDArray[np.bool_]
    """[n]: True where an id has a row; ``present.sum() == k``."""
    num_rejected: int
    """How many more had a row of another tag."""


class JoinedArray(NamedTuple):
    """Ids as they stand in a JSON array."""

    joined: bytes
    """Their UTF-8, an integer's its digits, with a NUL between each two: as ``NativeIds.find_texts`` takes them."""
    num_ids: int
    end: int
    """Offset behind the array."""


def join_ids(json: bytes, start: int) -> JoinedArray | None:
    """The ids of the JSON array that begins at an offset; NativeError if the library cannot be loaded.

    Returns:
        None if it is not an array of strings of ASCII without escapes and of integers of up to 18 digits, at least one.
        So a parser must be asked, right or wrong as it may be.
    """
    if not 0 <= start < len(json):
        return None
    joined = np.empty(len(json) - start, dtype=np.uint8)
    size, count = ctypes.c_int64(), ctypes.c_int64()
    end: int = library().rt_join_ids(
        json, len(json), start, _address(joined), ctypes.byref(size), ctypes.byref(count)
    )  # fmt: skip
    return None if end < 0 else JoinedArray(joined[: size.value].tobytes(), count.value, end)


class NativeIds:
    """The ids of one table. Holds no copy of them. Safe to call from several threads at once.

    12 and "12" are one id; "012" and " 12" are others. What no key can be is not found.
    """

    def __init__(
        self,
        keys: NDArray[Any],
        slots: NDArray[np.uint64],
        *,
        rows: NDArray[np.uint8] | None = None,
        tag: bytes = bytes(TAG_BYTES),
    ) -> None:
        """Take a table's arrays, as they are mapped.

        Args:
            keys: ``ids.npy`` [n], ascending: int64, or ``S<width>``, UTF-8, a multiple of 8 wide and at most 256.
            slots: ``slots.npy``, more than 4 n. A damaged one makes ids missing and never gives a wrong row.
            rows: ``rows.bin`` [n, row_size], of which those of another tag are rejected where that is asked for.
            tag: the 8 bytes in front of each row.

        Raises:
            NativeError: an array has another shape or dtype, or the library cannot be loaded.
        """
        _check(keys, slots)
        self._arrays = (keys, slots, rows)  # whose addresses are taken below
        has_integers = keys.dtype.kind == "i"
        self._ids = Ids(keys.ctypes.data, slots.ctypes.data, len(keys), len(slots), keys.itemsize, has_integers)
        self._at = ctypes.byref(self._ids)
        self._tagged = None
        if rows is not None:
            if rows.dtype != np.uint8 or rows.ndim != 2 or len(rows) != len(keys) or not rows.flags.c_contiguous:
                raise NativeError(f"rows: {rows.dtype.str} of shape {rows.shape}; expected bytes of {len(keys)} rows")
            if rows.shape[1] < TAG_BYTES or len(tag) != TAG_BYTES:
                raise NativeError(f"rows of {rows.shape[1]} bytes, tag of {len(tag)}; a tag has {TAG_BYTES}")
            self._rows = TaggedRows(rows.ctypes.data, len(rows), rows.shape[1], (ctypes.c_uint8 * TAG_BYTES)(*tag))
            self._tagged = ctypes.byref(self._rows)
        functions = library()
        self._find_texts: Callable[..., int] = functions.rt_find_texts
        self._find_integers: Callable[..., int] = functions.rt_find_integers
        self._find_marshalled: Callable[..., int] = functions.rt_find_marshalled

    def find_texts(self, joined: bytes, count: int, *, check_tags: bool = False) -> Found | None:
        """Where ids stand.

        Args:
            joined: their UTF-8, with a NUL between each two.
            count: how many they are: n.
            check_tags: whether rows of another tag count as absent.

        Returns:
            None if ``joined`` is not so many ids, as when one of them has a NUL in it.
        """
        return self._found(self._find_texts, (joined, len(joined), count), count, check_tags)

    def find_integers(self, values: NDArray[np.int64], *, check_tags: bool = False) -> Found:
        """Where ids stand that are integers ``values`` [n], contiguous; ``check_tags`` as in ``find_texts``."""
        if values.dtype != np.int64 or values.ndim != 1 or not values.flags.c_contiguous:
            raise ValueError(f"values: {values.dtype.str}, {values.ndim} axes; expected int64, one axis, contiguous")
        count = len(values)
        found = self._found(self._find_integers, (values.ctypes.data, count), count, check_tags)
        assert found is not None, "as many as they are"
        return found

    def find_integer_list(self, ids: list[Any], *, check_tags: bool = False) -> Found | None:
        """Where ids stand that are all of Python's integers [n]; None if one is of another type, or no int64.

        ``True`` is of another type. ``check_tags``: as in ``find_texts``.
        """
        count = len(ids)
        if _reads_marshal():
            # Writes types and values in one pass, in half of the time that counting types and numpy.fromiter take.
            try:
                dump = marshal.dumps(ids, _MARSHAL_VERSION)
            except ValueError:
                return None
            return self._found(self._find_marshalled, (dump, len(dump), count), count, check_tags)
        if list(map(type, ids)).count(int) != count:
            return None
        try:
            return self.find_integers(np.fromiter(ids, dtype=np.int64, count=count), check_tags=check_tags)
        except OverflowError:
            return None

    def _found(self, find: Callable[..., int], given: tuple[Any, ...], count: int, check_tags: bool) -> Found | None:
        if check_tags and self._tagged is None:
            raise ValueError("rows: not given, so there are no tags")
        rows, present = np.empty(count + 1, dtype=_INT64), np.empty(count + 1, dtype=_BOOL)
        rejected = ctypes.c_int64()
        num_found = find(
            self._at, self._tagged if check_tags else None, *given, _address(rows), _address(present),
            ctypes.byref(rejected),
        )  # fmt: skip
        if num_found < _WRONG_COUNT:
            raise NativeError("the table is not one that ids can be looked up in")
        return None if num_found == _WRONG_COUNT else Found(rows[:num_found], present[:count], rejected.value)


def _address(array: NDArray[Any]) -> int:
    """Of a writable array that is not empty; ``array.ctypes.data`` takes three times as long."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data))


@cache
def _reads_marshal() -> bool:
    """Whether this Python writes integers as ``rt_find_marshalled`` reads them: its format is nowhere promised."""
    numbers = sorted(sign * ((1 << bits) - 1) for sign in (1, -1) for bits in (1, 15, 31, 32, 45, 60, 63))
    # One at a time: so few are found by search, without slots.
    keys = np.array([-(1 << 63), *numbers], dtype=np.int64)
    table = NativeIds(keys, np.zeros(len(keys) * _SLOTS_PER_KEY + 1, dtype=np.uint64))
    for row, key in enumerate(keys.tolist()):
        dump = marshal.dumps([key], _MARSHAL_VERSION)
        found = table._found(table._find_marshalled, (dump, len(dump), 1), 1, False)
        if found is None or found.rows.tolist() != [row]:
            return False
    return True


def _check(keys: NDArray[Any], slots: NDArray[np.uint64]) -> None:
    if keys.ndim != 1 or (keys.dtype != np.dtype("<i8") and keys.dtype.kind != "S") or not keys.flags.c_contiguous:
        raise NativeError(f"keys: {keys.dtype.str} of shape {keys.shape}; expected int64 or S<width>, contiguous")
    if not 0 < keys.itemsize <= MAX_KEY_BYTES or keys.itemsize % _WORD_BYTES:
        raise NativeError(f"keys of {keys.itemsize} bytes; expected a multiple of {_WORD_BYTES} up to {MAX_KEY_BYTES}")
    if slots.ndim != 1 or slots.dtype != np.dtype("<u8") or not slots.flags.c_contiguous:
        raise NativeError(f"slots: {slots.dtype.str} of shape {slots.shape}; expected uint64, contiguous")
    if len(slots) <= len(keys) * _SLOTS_PER_KEY:
        raise NativeError(f"{len(slots)} slots; {len(keys)} keys need more than {len(keys) * _SLOTS_PER_KEY}")
