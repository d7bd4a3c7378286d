"""The hash table from ids to row numbers, ``slots.npy``: written once, mapped by all workers, read vectorised.

Keys are compared and hashed as words of 8 bytes: an int64 is one, a ``S<width>`` key ``width / 8``. docs/formats.md
specifies the hash and the file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORD_BYTES = 8
SLOTS_PER_ROW = 4
"""One slot in four is taken: of a thousand ids one or none then stands outside the window of its home."""
WINDOW = 4
"""Slots looked at for every id, its home first; the benchmark ``id_lookup`` has the other widths."""
FEW = 8
"""So few keys are found sooner by binary search, which takes fewer steps of NumPy: a request's user is one."""
MAX_ROWS = (1 << 32) // SLOTS_PER_ROW - 1
"""Homes are counted in 32 bits."""

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, which is odd
_POWERS = np.array([pow(_MULTIPLIER, power, 1 << 64) for power in range(1, 33)], dtype=np.uint64)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


def key_words(keys: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Keys [n], contiguous, as words [n, width / 8], without a copy."""
    return keys.view(np.uint64).reshape(len(keys), keys.itemsize // WORD_BYTES)


def hash_words(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hash [n] of keys [n, width / 8]."""
    total = _fold(words[:, 0])
    total *= _POWERS[0]
    for column in range(1, words.shape[1]):
        part = _fold(words[:, column])
        part *= _POWERS[column]
        total += part
    total = _fold(total)
    total *= _POWERS[0]
    return total


def build_slots(keys: NDArray[np.generic]) -> NDArray[np.uint64]:
    """The content of ``slots.npy`` for keys [n] without duplicates; the same keys give the same slots.

    At most ``MAX_ROWS`` keys. Needs memory for about 10 words a key beside the keys.
    """
    num_rows = len(keys)
    hashes = hash_words(key_words(keys))
    # Sorted by the half of the hash that says where home is, then by row: one sort of plain numbers.
    ordered = hashes & ~_LOW
    ordered |= np.arange(num_rows, dtype=np.uint64)
    ordered.sort()
    rows = ordered & _LOW
    homes = _homes(ordered, num_rows)
    # Each takes its home or the first slot behind the one before it, so the slots from home to place are all taken.
    steps = np.arange(num_rows)
    homes -= steps
    places = np.maximum.accumulate(homes, out=homes)
    places += steps
    end = int(places[-1]) + 1 if num_rows else 0
    slots = np.zeros(max(num_rows * SLOTS_PER_ROW, end) + 1, dtype=np.uint64)
    tags = hashes.take(rows.view(np.int64))
    tags <<= _HALF
    rows += _ONE
    rows |= tags
    slots[places] = rows
    return slots


class SlotTable:
    """Row numbers by key, over ``slots.npy`` and ``ids.npy``.

    Slots only propose rows: a row counts as found if its key is the one asked for, whatever the slots say.
    """

    def __init__(self, keys: NDArray[np.generic], slots: NDArray[np.uint64], *, window: int = WINDOW) -> None:
        """``keys`` [n > 0], ascending; ``slots``, longer than ``SLOTS_PER_ROW`` n."""
        # Plain views: every operation on a memmap costs a few microseconds more.
        self._keys = keys.view(np.ndarray)
        self._words = key_words(self._keys)
        plain = slots.view(np.ndarray)
        self._shifted = [plain[step:] for step in range(window)]
        self._last = np.uint64(len(keys) - 1)

    def find(self, wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where keys stand.

        Args:
            wanted: [n, width / 8], contiguous.

        Returns:
            ``(rows, found)``, both [n]; a row number means nothing where nothing was found.
        """
        if len(wanted) <= FEW:
            rows = self._search(wanted)
            return rows, self._is_at(rows, wanted)
        hashes = hash_words(wanted)
        homes = _homes(hashes, len(self._keys))
        marks = _marks(hashes)
        # A slot of the right tag less the mark is a row number, and any other is more than every row number. The
        # memory accesses of one take do not wait for each other, as those of a binary search do.
        best = self._shifted[0].take(homes, mode="clip")
        best -= marks
        for shifted in self._shifted[1:]:
            other = shifted.take(homes, mode="clip")
            other -= marks
            np.minimum(best, other, out=best)
        rows = np.minimum(best, self._last).view(np.int64)
        found = self._is_at(rows, wanted)
        if not found.all():
            left = np.flatnonzero(~found)
            left = left[self._is_open(homes[left], marks[left])]
            if len(left):
                rows[left] = self._search(wanted[left])
                found[left] = self._is_at(rows[left], wanted[left])
        return rows, found

    def _is_at(self, rows: NDArray[np.int64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
        words = self._words.take(rows, axis=0, mode="clip")
        same: NDArray[np.bool_] = words[:, 0] == wanted[:, 0]
        for column in range(1, wanted.shape[1]):  # a reduction over so short an axis takes three times as long
            same &= words[:, column] == wanted[:, column]
        return same

    def _is_open(self, homes: NDArray[np.int64], marks: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which keys not found may still stand behind the window, or behind another key of the same tag."""
        window = np.stack([shifted.take(homes, mode="clip") for shifted in self._shifted])
        has_no_end = (window != 0).all(axis=0)
        has_tag = (window - marks <= self._last).any(axis=0)
        return np.asarray(has_no_end | has_tag)

    def _search(self, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        # The keys are sorted anyway: an id that was chosen to lie in a long run costs a binary search, not the run.
        rows = np.searchsorted(self._keys, wanted.view(self._keys.dtype).reshape(-1))
        return np.minimum(rows, len(self._keys) - 1, out=rows)


def _fold(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    folded = words >> _HALF
    folded ^= words
    return folded


def _homes(hashes: NDArray[np.uint64], num_rows: int) -> NDArray[np.int64]:
    """First slot of each hash: its upper half, scaled to the number of homes."""
    homes = hashes >> _HALF
    homes *= np.uint64(num_rows * SLOTS_PER_ROW)
    homes >>= _HALF
    return homes.view(np.int64)


def _marks(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What to take from a slot so that the row number is left: the tag, and the one by which rows are counted up."""
    marks = hashes << _HALF
    marks += _ONE
    return marks
