"""The ways to find ids that were tried for local tables; ``id_lookup.py`` measures them beside the one that is kept."""

from __future__ import annotations

import array
import re
import struct
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.ids import encode_ids
from ranktower.embedding_store.slots import SLOTS_PER_ROW, hash_words, key_words

Keys = NDArray[Any]
Words = NDArray[np.uint64]
Rows = NDArray[np.int64]
FindRows = Callable[[Words], Rows]
MISSING = -1
_INTEGERS = re.compile("(?:-?[1-9][0-9]{0,18}|0)(?:,(?:-?[1-9][0-9]{0,18}|0))*+")
_HALF = np.uint64(32)
_MAX_ROUNDS = 32


def binary_search(keys: Keys) -> FindRows:
    """``searchsorted`` in the sorted keys, in the order of the request: what a table did before it had slots."""

    def find(wanted: Words) -> Rows:
        same_type = wanted.view(keys.dtype).reshape(-1)
        rows = np.searchsorted(keys, same_type)
        np.minimum(rows, len(keys) - 1, out=rows)
        return np.where(keys[rows] == same_type, rows, MISSING)

    return find


def sorted_binary_search(keys: Keys) -> FindRows:
    """The request's ids are sorted first, so that neighbours take nearly the same way through the keys."""
    search = binary_search(keys)

    def find(wanted: Words) -> Rows:
        order = np.argsort(wanted.view(keys.dtype).reshape(-1))
        rows = np.empty(len(wanted), dtype=np.int64)
        rows[order] = search(wanted[order])
        return rows

    return find


def buckets_by_value(keys: Keys) -> FindRows:
    """Integers only: a table of where each range of values begins (two ranges a key), then key after key.

    It needs values that are spread evenly; one crowded range makes every request with an id in it slow.
    """
    low = int(keys[0])
    shift = max((int(keys[-1]) - low).bit_length() - (2 * len(keys)).bit_length(), 0)
    edges = low + (np.arange(((int(keys[-1]) - low) >> shift) + 2, dtype=np.int64) << shift)
    starts = np.searchsorted(keys, edges).astype(np.uint32)

    def find(wanted: Words) -> Rows:
        values = wanted.view(np.int64)[:, 0]
        rows = starts.take((values - low) >> shift, mode="clip").astype(np.int64)
        left = np.flatnonzero(keys.take(rows, mode="clip") < values)
        while len(left):
            rows[left] += 1
            left = left[keys.take(rows[left], mode="clip") < values[left]]
            left = left[rows[left] < len(keys)]
        return np.where(keys.take(rows, mode="clip") == values, rows, MISSING)

    return find


def rounds_of_row_numbers(keys: Keys, numbers: NDArray[np.uint32]) -> FindRows:
    """Slots of row numbers alone, half the size: the keys themselves must be read to tell, one slot after another.

    Args:
        numbers: of every slot, row + 1, 0 where it is empty.
    """
    words = key_words(keys)

    def find(wanted: Words) -> Rows:
        places = (((hash_words(wanted) >> _HALF) * np.uint64(len(keys) * SLOTS_PER_ROW)) >> _HALF).view(np.int64)
        rows = numbers.take(places, mode="clip").astype(np.int64) - 1
        is_other = (words.take(rows, axis=0, mode="clip") != wanted).any(axis=1)
        for step in range(1, _MAX_ROUNDS):
            left = np.flatnonzero(is_other & (rows >= 0))
            if not len(left):
                break
            rows[left] = numbers.take(places[left] + step, mode="clip").astype(np.int64) - 1
            is_other[left] = (words.take(rows[left], axis=0, mode="clip") != wanted[left]).any(axis=1)
        return np.where(is_other, MISSING, rows)

    return find


def dictionary(ids: Sequence[str | int]) -> Callable[[Sequence[str | int]], Rows]:
    """A dictionary from ids to rows, of each process its own."""
    rows = {one: row for row, one in enumerate(ids)}

    def find(wanted: Sequence[str | int]) -> Rows:
        return np.fromiter(map(rows.get, wanted, repeat(MISSING)), dtype=np.int64, count=len(wanted))  # type: ignore[arg-type]

    return find


# From ids to keys. The first is what a table did before it had slots.


def integers_by_set_and_array(ids: Sequence[int]) -> Keys:
    """A set of the types, then ``numpy.array``."""
    if set(map(type, ids)) != {int}:
        raise TypeError
    return np.array(ids, dtype=np.int64)


def integers_by_inference(ids: Sequence[int]) -> Keys:
    """``numpy.array`` finds the type out (and takes True for 1, so that zeros and ones must be looked at again)."""
    values = np.array(ids)
    if values.dtype != np.int64 or (values.view(np.uint64) <= 1).any():
        raise TypeError
    return values


def integers_by_array_module(ids: Sequence[int]) -> Keys:
    """The standard library's ``array`` refuses floats and strings (and takes True for 1)."""
    values = np.frombuffer(array.array("q", ids), dtype=np.int64)
    if (values.view(np.uint64) <= 1).any():
        raise TypeError
    return values


def integers_by_struct(ids: Sequence[int]) -> Keys:
    """``struct`` refuses what ``array`` refuses."""
    values = np.frombuffer(struct.pack(f"{len(ids)}q", *ids), dtype=np.int64)
    if (values.view(np.uint64) <= 1).any():
        raise TypeError
    return values


def digits_by_regular_expression(ids: Sequence[str]) -> Keys:
    """One regular expression over all ids, then ``numpy.fromstring``."""
    joined = ",".join(ids)
    if not _INTEGERS.fullmatch(joined):
        raise TypeError
    return np.fromstring(joined, dtype=np.int64, sep=",")


def digits_by_int(ids: Sequence[str]) -> Keys:
    """``int`` of each, and back to find what is not canonical."""
    numbers = list(map(int, ids))
    if list(map(str, numbers)) != ids:
        raise TypeError
    return np.array(numbers, dtype=np.int64)


def strings_by_split(ids: Sequence[str], width: int) -> Keys:
    """Joined, encoded and split again, then ``numpy.array``; a spare byte shows an id that is too long."""
    padded = np.array(encode_ids(ids), dtype=f"S{width + 1}")
    if padded.view(np.uint8).reshape(len(padded), -1)[:, width].any():
        raise TypeError
    return padded.astype(f"S{width}")


def strings_by_array(ids: Sequence[str], width: int) -> Keys:
    """``numpy.array`` of the strings, ASCII only, a spare word for what is too long; a NUL must be searched for."""
    padded = np.array(ids, dtype=f"S{width + 8}")
    words = padded.view(np.uint64).reshape(len(padded), -1)
    if words[:, -1].any() or "\0" in "".join(ids):
        raise TypeError
    return words[:, :-1]
