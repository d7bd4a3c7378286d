"""The shared library and its functions, as ``src/ranktower_native.h`` declares them.

It is called through ctypes, which lets go of the interpreter's lock while a function runs.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from functools import cache
from pathlib import Path

ABI_VERSION = 3
TAG_BYTES = 8
"""In front of each row's values: the release's tag."""
_NAME = "libranktower_native.dylib" if sys.platform == "darwin" else "libranktower_native.so"


class NativeError(RuntimeError):
    """The library cannot be loaded, or does not take what it was given."""


class Shape(ctypes.Structure):
    """``rt_shape``."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "user_heads", "item_heads", "width", "attention_width", "is_float16", "is_projected", "activation",
        )
    ]  # fmt: skip


MATRICES = (
    "u_query", "u_key", "u_value", "u_gate", "u_output", "i_output", "u_of_square", "i_of_square", "u_of_x", "i_of_x",
    "weights", "i_query", "i_key", "i_value", "i_gate",
)  # fmt: skip
NUMBERS = (
    "scale", "u_epsilon", "i_epsilon", "u_bias_square", "i_bias_square", "bias_product", "tiny", "inverse_tau",
)  # fmt: skip


class Weights(ctypes.Structure):
    """``rt_weights``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in MATRICES),
        *((name, ctypes.c_float) for name in NUMBERS),
    ]


class Ids(ctypes.Structure):
    """``rt_ids``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("keys", "slots")),
        *((name, ctypes.c_int64) for name in ("num_keys", "num_slots", "key_bytes", "has_integers")),
    ]


class TaggedRows(ctypes.Structure):
    """``rt_tagged_rows``."""

    _fields_ = [
        ("rows", ctypes.c_void_p),
        ("num_rows", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
        ("tag", ctypes.c_uint8 * TAG_BYTES),
    ]


@cache
def library() -> ctypes.CDLL:
    """The library with its functions' types set; NativeError if it cannot be loaded or is of another version."""
    path = Path(__file__).with_name(_NAME)
    try:
        loaded = ctypes.CDLL(str(path))
        found = loaded.rt_abi_version()
    except (OSError, AttributeError) as error:
        raise NativeError(f"{path}: cannot be loaded: {error}") from error
    if found != ABI_VERSION:
        raise NativeError(f"{path}: version {found} of the interface, expected {ABI_VERSION}")
    try:
        _declare(loaded)
    except AttributeError as error:
        raise NativeError(f"{path}: is not the library of this package: {error}") from error
    return loaded


def _declare(loaded: ctypes.CDLL) -> None:
    """The functions' types; AttributeError where one is missing."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    loaded.rt_paths.restype = ctypes.POINTER(ctypes.c_char_p)
    loaded.rt_scorer_open.restype = pointer
    loaded.rt_scorer_open.argtypes = [pointer, pointer, ctypes.c_char_p]
    loaded.rt_scorer_close.restype = None
    loaded.rt_scorer_close.argtypes = [pointer]
    loaded.rt_score.restype = integer
    loaded.rt_score.argtypes = [pointer, pointer, pointer, integer, integer, pointer, integer, pointer]
    for find in (loaded.rt_find_texts, loaded.rt_find_marshalled):
        find.restype = integer
        find.argtypes = [pointer, pointer, pointer, integer, integer, pointer, pointer, pointer]
    loaded.rt_find_integers.restype = integer
    loaded.rt_find_integers.argtypes = [pointer, pointer, pointer, integer, pointer, pointer, pointer]
    loaded.rt_join_ids.restype = integer
    loaded.rt_join_ids.argtypes = [pointer, integer, integer, pointer, pointer, pointer]


def paths() -> list[str]:
    """Names of the code paths that this processor can run, fastest first; NativeError as ``library``."""
    names = library().rt_paths()
    return [name.decode() for name in itertools.takewhile(bool, (names[place] for place in itertools.count()))]
