"""Widening half floats gives the bits that the definition of IEEE 754 gives."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ranktower.embedding_store.half import all_finite, widen_half

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)
FINITE = ALL_HALVES[(ALL_HALVES & 0x7C00) != 0x7C00]


def by_the_standard(bits: int) -> float:
    """The value of a half float, from sign, exponent and mantissa."""
    sign = -1.0 if bits >> 15 else 1.0
    exponent, mantissa = (bits >> 10) & 31, bits & 1023
    if exponent == 0:
        return sign * mantissa * 2.0**-24
    return sign * (1 + mantissa / 1024) * 2.0 ** (exponent - 15)


def test_every_finite_half_has_the_value_the_standard_gives() -> None:
    out = np.empty(len(FINITE), dtype=np.float32)
    widen_half(FINITE.view(np.int16), out)
    np.testing.assert_array_equal(out, np.array([by_the_standard(int(bits)) for bits in FINITE], dtype=np.float32))


def test_the_sign_of_zero_is_kept() -> None:
    out = np.empty(2, dtype=np.float32)
    widen_half(np.array([0x0000, 0x8000], dtype=np.uint16).view(np.int16), out)
    assert out.tobytes() == struct.pack("=ff", 0.0, -0.0)


def test_infinities_and_nan_stay_what_they_are() -> None:
    halves = np.array([0x7C00, 0xFC00, 0x7E01, 0xFE01, 0x3C00], dtype=np.uint16)
    out = np.empty(5, dtype=np.float32)
    widen_half(halves.view(np.int16), out)
    np.testing.assert_array_equal(out, [np.inf, -np.inf, np.nan, np.nan, 1.0])


def test_strided_read_only_input_and_two_axes() -> None:
    stored = np.arange(24, dtype=np.float16).reshape(3, 8)
    stored.flags.writeable = False
    out = np.empty((3, 4), dtype=np.float32)
    widen_half(stored.view("<i2")[:, 2:6], out)
    assert out.tolist() == [[2.0, 3.0, 4.0, 5.0], [10.0, 11.0, 12.0, 13.0], [18.0, 19.0, 20.0, 21.0]]


def test_nothing_to_widen() -> None:
    widen_half(np.empty((0, 4), dtype=np.int16), np.empty((0, 4), dtype=np.float32))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0x7FFF, 0xFC01, 0xFFFF])
def test_every_kind_of_non_finite_half_is_seen(bits: int) -> None:
    assert not all_finite(np.array([0, bits, 0], dtype=np.uint16).view(np.int16))


def test_the_largest_finite_halves_are_finite() -> None:
    assert all_finite(FINITE.view(np.int16))
