"""The lookup of ids in compiled code, where the package ranktower-native is installed; its answers are the same.

What ids are is decided in ``ids.py`` alone: here they become integers or one text, whichever they are, and the package
gives the rows of all of them in one call.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import TAG_SIZE
from ranktower.embedding_store.ids import IdIndex, encode_ids
from ranktower.embedding_store.joined_ids import JoinedIds

if TYPE_CHECKING:
    from ranktower_native import Found

logger = logging.getLogger(__name__)


def open_index(
    keys: NDArray[np.generic],
    slots: NDArray[np.uint64],
    *,
    rows: NDArray[np.uint8] | None = None,
    tag: bytes = bytes(TAG_SIZE),
    native: bool = True,
) -> IdIndex:
    """The index of one table: the native one where it is wanted and can be had; see ``IdIndex``."""
    if native and find_spec("ranktower_native") is not None:
        try:
            return NativeIdIndex(keys, slots, rows=rows, tag=tag)
        except (ImportError, RuntimeError) as error:  # of which NativeError is one
            logger.warning("ids are looked up in Python", extra={"fields": {"detail": str(error)}})
    return IdIndex(keys, slots, rows=rows, tag=tag)


class NativeIdIndex(IdIndex):
    """``IdIndex`` whose look-ups are one call of compiled code each."""

    def __init__(
        self,
        keys: NDArray[np.generic],
        slots: NDArray[np.uint64],
        *,
        rows: NDArray[np.uint8] | None = None,
        tag: bytes = bytes(TAG_SIZE),
    ) -> None:
        """See ``IdIndex``."""
        from ranktower_native import NativeIds

        super().__init__(keys, slots, rows=rows, tag=tag)
        self._native = NativeIds(keys.view(np.ndarray), slots.view(np.ndarray), rows=rows, tag=tag)

    def find(self, ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where ids stand."""
        found = self._found(ids)
        return found.rows, found.present

    def find_valid(self, ids: Sequence[object]) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
        """As ``find``, but a row of another tag counts as absent; third, how many of those there were."""
        return self._found(ids, check_tags=True)

    def find_one(self, one: object) -> int | None:
        """Row number of one id, None if it has none."""
        rows = self._found([one]).rows
        return int(rows[0]) if len(rows) else None

    def _found(self, ids: Sequence[object], *, check_tags: bool = False) -> Found:
        if isinstance(ids, JoinedIds):
            found = self._native.find_texts(ids.joined, len(ids), check_tags=check_tags)
            assert found is not None, "no NUL is in an id"
            return found
        if len(ids) and type(ids[0]) is int:
            found = self._native.find_integer_list(ids if type(ids) is list else list(ids), check_tags=check_tags)
            if found is not None:
                return found
        try:
            joined = "\0".join(ids).encode("utf-8")  # type: ignore[arg-type]
        except (TypeError, UnicodeEncodeError):  # not all are strings, or there is a lone surrogate
            joined = None
        found = None if joined is None else self._native.find_texts(joined, len(ids), check_tags=check_tags)
        if found is None:  # or there is a NUL inside an id
            found = self._native.find_texts(b"\0".join(encode_ids(ids)), len(ids), check_tags=check_tags)
        assert found is not None, "encode_ids leaves no NUL in an id"
        return found
