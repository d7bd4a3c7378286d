"""The fused scorer over stored rows."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ranktower_native.library import MATRICES, NUMBERS, TAG_BYTES, NativeError, Shape, Weights, library

Activation = Literal["silu", "relu", "gelu"]
_ACTIVATIONS: tuple[Activation, ...] = ("silu", "relu", "gelu")
_ALL_SCORED = -1
_OF_ITEMS = ("i_query", "i_key", "i_value", "i_gate")


@dataclass(frozen=True, slots=True)
class ScorerShape:
    """What the rows of a model look like."""

    user_heads: int
    """1 to 16, as ``item_heads``."""
    item_heads: int
    width: int
    """D, 1 to 256."""
    attention_width: int
    """A, 1 to 256."""
    is_float16: bool
    """Dtype of all rows; float32 where False."""
    is_projected: bool
    """Whether an item's row holds query, key, value and gate behind the embedding."""
    activation: Activation

    def __post_init__(self) -> None:
        """ValueError for what no shape can be."""
        for name, most in (("user_heads", 16), ("item_heads", 16), ("width", 256), ("attention_width", 256)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name}: must be an integer from 1 to {most}, got {value!r}")
        for name in ("is_float16", "is_projected"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: must be true or false, got {getattr(self, name)!r}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation: must be one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}")

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the constants of ``NativeScorer``."""
        d, a = self.width, self.attention_width
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(MATRICES[:6], (d, a))
        shapes |= dict.fromkeys(MATRICES[6:10], (2, d)) | {"weights": (1, d)}
        return shapes | ({} if self.is_projected else dict.fromkeys(_OF_ITEMS, (a, d)))


class NativeScorer:
    """Scores of one user against stored items. Safe to call from several threads at once."""

    def __init__(
        self, shape: ScorerShape, constants: Mapping[str, NDArray[np.float32]], *, path: str | None = None
    ) -> None:
        """Copy a model's constants.

        Args:
            shape: of its rows.
            constants: by their names in ``scorer.onnx``: matrices as ``ScorerShape.sizes`` says, and numbers.
            path: one of ``paths()``, the fastest where None.

        Raises:
            NativeError: a constant is missing or of another shape, or the shape or path is not possible here.
        """
        arrays = {name: _array(constants, name, size) for name, size in shape.sizes().items()}
        numbers = [float(_array(constants, name, None).item()) for name in NUMBERS]
        pointers = [arrays[name].ctypes.data if name in arrays else None for name in MATRICES]
        sizes = (shape.user_heads, shape.item_heads, shape.width, shape.attention_width)
        flags = (shape.is_float16, shape.is_projected, _ACTIVATIONS.index(shape.activation))
        functions = library()
        handle = functions.rt_scorer_open(
            ctypes.byref(Shape(*sizes, *flags)), ctypes.byref(Weights(*pointers, *numbers)), path and path.encode()
        )
        if not handle:
            raise NativeError(f"{shape} on path {path or 'the fastest'}: not possible here")
        itemsize = 2 if shape.is_float16 else 4
        of_items = shape.item_heads * (shape.width + (4 * shape.attention_width if shape.is_projected else 0))
        self._user_bytes = TAG_BYTES + itemsize * shape.user_heads * shape.width
        self._item_bytes = TAG_BYTES + itemsize * of_items
        self._score = functions.rt_score
        self._handle = handle
        self._close = weakref.finalize(self, functions.rt_scorer_close, handle)
        self._close.atexit = False  # a thread may still be scoring then

    def score(
        self, user: NDArray[np.uint8], rows: NDArray[np.uint8], chosen: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Scores (logits) ``[N]``; one is not finite where a value of its rows is not.

        Args:
            user: its row, ``[1, row_size]``.
            rows: a table ``[n, row_size]``, as it is mapped, or rows that were fetched; rows may lie apart.
            chosen: row numbers ``[N]`` in ``rows``, all of them in order where None.

        Raises:
            ValueError: an array has another shape, or bytes that are not next to each other.
            IndexError: a row number is out of range.
        """
        if user.dtype != np.uint8 or rows.dtype != np.uint8:
            raise ValueError(f"user and rows: {user.dtype.str} and {rows.dtype.str}; expected bytes")
        if user.shape != (1, self._user_bytes) or not user.flags.c_contiguous:
            raise ValueError(f"user: shape {user.shape}, expected (1, {self._user_bytes}), contiguous")
        is_apart = rows.size and (rows.strides[1] != 1 or rows.strides[0] < 0)
        if rows.shape != (len(rows), self._item_bytes) or is_apart:
            raise ValueError(f"rows: shape {rows.shape}, expected (n, {self._item_bytes}), each row contiguous")
        numbers = None
        if chosen is not None:
            if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
                raise ValueError(f"chosen: {chosen.dtype.str}, {chosen.ndim} axes; expected integers, one axis")
            chosen = np.ascontiguousarray(chosen, dtype=np.int64)
            numbers = chosen.ctypes.data
        count = len(rows) if chosen is None else len(chosen)
        scores = np.empty(count, dtype=np.float32)
        wrong = self._score(
            self._handle, user.ctypes.data, rows.ctypes.data, len(rows), rows.strides[0], numbers, count,
            scores.ctypes.data,
        )  # fmt: skip
        if wrong >= 0 and chosen is not None:
            raise IndexError(f"chosen[{wrong}]: row {chosen[wrong]} of {len(rows)}")
        if wrong != _ALL_SCORED:
            raise MemoryError("no memory for the scorer's workspace")
        return scores


def _array(constants: Mapping[str, NDArray[Any]], name: str, size: tuple[int, ...] | None) -> NDArray[np.float32]:
    """A constant as C-ordered float32; of one number where ``size`` is None."""
    if name not in constants:
        raise NativeError(f"{name}: missing from the scorer's constants")
    array = np.ascontiguousarray(constants[name], dtype=np.float32)
    if array.size != (1 if size is None else math.prod(size)) or (size is not None and array.shape != size):
        raise NativeError(f"{name}: shape {array.shape}, expected {size or 'one number'}")
    return array
