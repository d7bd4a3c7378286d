"""Ids: their canonical form, the keys of a table, and the index from ids to row numbers.

The canonical form of an id is its string: the integer 12 and the string "12" are one id, "012", "1e3" and " 12" are
others. An id has 1 to 256 bytes of UTF-8 and no NUL. What is no id (a NUL, a lone surrogate, a float, an empty
string, 257 bytes) is never an error at lookup: nothing is stored under it, so it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import TAG_SIZE
from ranktower.embedding_store.joined_ids import JoinedIds
from ranktower.embedding_store.slots import WORD_BYTES, SlotTable
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
_COMMA, _ZERO = np.frombuffer(b",0", dtype=np.uint8)


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
    if isinstance(ids, JoinedIds):
        return ids.encoded()
    if list(map(type, ids)).count(int) == len(ids):
        try:
            return [b"%d" % one for one in ids]  # type: ignore[str-format]  # all are int
        except ValueError:  # Python prints no integer of more than 4,300 digits
            pass
    texts = canonical_texts(ids)
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
    if _are_positive(joined, len(texts)) or _INTEGERS.fullmatch(joined):
        values = np.fromstring(joined, dtype=np.int64, sep=",")
        # An id with a comma in it makes too many values; one too large for int64 becomes the largest there is.
        if len(values) == len(texts) and values.max() < _INT64.max and values.min() > _INT64.min:
            return values, np.ones(len(texts), dtype=np.bool_)
    numbers = [int(text) if _ONE_INTEGER.fullmatch(text) else None for text in texts]
    good = [number is not None and _INT64.min <= number <= _INT64.max for number in numbers]
    kept = [number if fits else 0 for number, fits in zip(numbers, good, strict=True)]
    return np.array(kept, dtype=np.int64), np.array(good, dtype=np.bool_)


def _are_positive(joined: str, count: int) -> bool:
    """Whether ``count`` integers above 0, of any size, are joined by commas: a few passes over the bytes."""
    if not joined.isascii():
        return False
    codes = np.frombuffer(f",{joined},".encode(), dtype=np.uint8)
    commas = (codes == _COMMA).nonzero()[0]
    num_digits = np.count_nonzero(codes - _ZERO < 10)
    if len(commas) != count + 1 or len(commas) + num_digits != len(codes):
        return False
    # Nothing, a zero, and what has a leading zero are left to the regular expression.
    return bool((codes.take(commas[:-1] + 1) - _ZERO - 1 < 9).all())


def table_keys(ids: Sequence[object] | NDArray[np.generic], *, source: object) -> NDArray[np.generic]:
    """The keys of a table's rows, unsorted: int64 if every id is such an integer, otherwise UTF-8 ``S<width>``.

    The width is that of the longest id, rounded up to whole words of 8 bytes.

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
    return np.array(encoded, dtype=f"S{-(-max(map(len, encoded)) // WORD_BYTES) * WORD_BYTES}")


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
    """Row numbers by id, in keys and slots that are mapped: no dictionary, so that opening costs nothing."""

    def __init__(
        self,
        keys: NDArray[np.generic],
        slots: NDArray[np.uint64],
        *,
        rows: NDArray[np.uint8] | None = None,
        tag: bytes = bytes(TAG_SIZE),
    ) -> None:
        """Take a table's arrays.

        Args:
            keys: [n], ascending: int64, or ``S<width>`` in byte order.
            slots: as ``build_slots`` makes them.
            rows: [n, row_size], of which ``find_valid`` rejects those that do not begin with ``tag``, of 8 bytes.
        """
        # A plain view: every operation on a memmap costs a few microseconds more.
        self._keys = keys.view(np.ndarray)
        self._has_integers = keys.dtype.kind == "i"
        if len(keys):
            self._table = SlotTable(self._keys, slots)
        self._tails = np.zeros((0, 0), dtype=np.uint64) if self._has_integers else key_tails(keys.itemsize)
        self._tags = None if rows is None else rows[:, :TAG_SIZE].view("<u8")[:, 0]
        self._tag = np.uint64(int.from_bytes(tag, "little"))

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
        if self._has_integers:
            integers, is_integer = wanted_integers(ids)
            rows, present = self._table.find(integers.view(np.uint64)[:, None])
            present &= is_integer
        else:
            rows, present = self._table.find(padded_words(ids, self._tails))
        return (rows if present.all() else rows[present]), present

    def find_valid(self, ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
        """As ``find``, but a row of another tag counts as absent; third, how many of those there were."""
        rows, present = self.find(ids)
        if self._tags is None:
            raise ValueError("rows: not given, so there are no tags")
        good = self._tags[rows] == self._tag
        num_rejected = len(rows) - int(np.count_nonzero(good))
        if num_rejected:
            present = present.copy()
            present[np.flatnonzero(present)[~good]] = False
            rows = rows[good]
        return rows, present, num_rejected

    def find_one(self, one: object) -> int | None:
        """Row number of one id, None if it has none; ``find`` takes several times as long for so little."""
        if not len(self._keys):
            return None
        key: np.generic
        if not self._has_integers:
            (encoded,) = encode_ids([one])
            if not 0 < len(encoded) <= self._keys.itemsize:
                return None
            key = np.bytes_(encoded)
        elif type(one) is int and _INT64.min <= one <= _INT64.max:
            key = np.int64(one)
        else:
            (value,), (is_integer,) = parse_integers(canonical_texts([one]))
            if not is_integer:
                return None
            key = value
        row = int(self._keys.searchsorted(key))  # of the keys' own type, or all of them would be converted
        return row if row < len(self._keys) and self._keys[row] == key else None

    def texts(self, rows: NDArray[np.integer] | slice) -> list[str]:
        """The canonical ids of some rows."""
        keys = self._keys[rows].tolist()
        return list(map(str, keys)) if self._has_integers else [key.decode("utf-8") for key in keys]


def integer_values(ids: Sequence[object]) -> NDArray[np.int64] | None:
    """The values [n > 0] of ids that are all of Python's integers and fit; None if one is not or does not."""
    # Counting in a list takes two thirds of the time of making a set.
    if type(ids[0]) is not int or list(map(type, ids)).count(int) != len(ids):
        return None
    try:
        return np.fromiter(ids, dtype=np.int64, count=len(ids))
    except OverflowError:
        return None


def wanted_integers(ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What to look for in a table of integers: values and which ids are such integers, both [n > 0]."""
    if (values := integer_values(ids)) is not None:
        return values, np.ones(len(ids), dtype=np.bool_)
    try:
        return parse_integers(ids)  # type: ignore[arg-type]
    except TypeError:  # joining them is what tells that they are not all strings
        return parse_integers(canonical_texts(ids))


def padded_words(ids: Sequence[object], tails: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What to look for in a table of strings: UTF-8 filled up with NUL to the table's width, as words [n, width / 8].

    What is no id, and what is longer than the width, is all NUL, which no key is. ``tails``: the width's ``key_tails``.
    """
    width = tails.shape[1] * WORD_BYTES
    behind = bytes(width + 1)
    try:
        data = "\0".join(ids).encode("utf-8") + behind  # type: ignore[arg-type]
        ends = _ends(data, width)
    except (TypeError, UnicodeEncodeError):  # not all are strings, or there is a lone surrogate
        ends = np.zeros(0, dtype=np.int64)
    if len(ends) != len(ids):  # or there is a NUL inside an id
        data = b"\0".join(encode_ids(ids)) + behind
        ends = _ends(data, width)
    starts = np.zeros_like(ends)
    np.add(ends[:-1], 1, out=starts[1:])
    # At every byte begins a window of the key's width; what is behind the id's end is then masked.
    windows = np.ndarray((len(data) - width,), dtype=f"V{width}", buffer=data, strides=(1,))
    words = windows[starts].view(np.uint64).reshape(len(ends), -1)
    ends -= starts
    words &= tails.take(ends, axis=0, mode="clip")
    return words


def _ends(data: bytes, width: int) -> NDArray[np.int64]:
    ends: NDArray[np.int64] = (np.frombuffer(data, dtype=np.uint8, count=len(data) - width) == 0).nonzero()[0]
    return ends


def key_tails(width: int) -> NDArray[np.uint64]:
    """Masks [width + 2, width / 8] that keep the first k bytes of a key, for every length k; the last keeps nothing."""
    kept = np.tri(width + 2, width, -1, dtype=np.uint8) * np.uint8(255)
    kept[-1] = 0
    return kept.view(np.uint64)
