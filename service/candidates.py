"""The candidates of one request that have a row, whichever stores they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowKind
from ranktower.embedding_store.protocol import StoredRows

Chosen = NDArray[np.intp] | slice
"""Some of the rows: a slice without a step, or ascending or unordered row numbers."""


class CandidateRows:
    """Rows of several stores as one sequence, ``[k]``; ``to_candidates`` leads back to the candidates, ``[n]``."""

    def __init__(self, parts: Sequence[StoredRows], num_candidates: int) -> None:
        """No candidate is present in two of the parts."""
        self._parts = parts
        self.num_candidates = num_candidates
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        """Number of rows: k."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_rejected(self) -> int:
        """How many stored values were no rows of the release."""
        return sum(part.num_rejected for part in self._parts)

    def count_by_kind(self, chosen: slice) -> dict[RowKind, int]:
        """How many of the chosen rows are of each kind."""
        counts: dict[RowKind, int] = {}
        for part, rows, _ in self.split(chosen):
            size = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
            counts[part.layout.kind] = counts.get(part.layout.kind, 0) + size
        return counts

    def split(self, chosen: Chosen) -> Iterator[tuple[StoredRows, Chosen, Chosen]]:
        """For each part with some of the chosen rows: the part, which of its own rows they are, and their places among
        the chosen."""
        if len(self._parts) == 1:
            yield self._parts[0], chosen, slice(None)
            return
        rows = np.arange(len(self))[chosen] if isinstance(chosen, slice) else chosen
        owners = np.searchsorted(self._ends, rows, side="right")
        starts = [0, *self._ends]
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            yield self._parts[owner], rows[places] - starts[owner], places

    def to_candidates(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values ``[k]`` of the rows at the places ``[n]`` of their candidates, NaN where there is no row."""
        if len(self._parts) == 1 and len(values) == self.num_candidates:
            return values
        spread = np.full(self.num_candidates, np.nan, dtype=np.float32)
        start = 0
        for part in self._parts:
            spread[part.present] = values[start : start + len(part)]
            start += len(part)
        return spread
