"""Rows of bytes: their layout read without the codec, round trips, tags, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import ARRAYS, RowLayout
from ranktower.errors import DataError

TAG = b"\x01\x02\x03\x04\x05\x06\x07\xff"
Arrays = dict[str, NDArray[np.float32]]
LAYOUT = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=TAG)
WIDE = RowLayout(heads=2, width=3, attention_width=4, dtype="float32", tag=TAG)


def read_by_the_specification(row: bytes, *, heads: int, width: int, attention_width: int, letter: str) -> Arrays:
    """docs/formats.md in ten lines of struct: the tag, then five arrays in C order, little-endian."""
    assert row[:8] == TAG
    offset, arrays = 8, {}
    for array in ("embedding", "query", "key", "value", "gate"):
        columns = width if array == "embedding" else attention_width
        values = struct.unpack_from(f"<{heads * columns}{letter}", row, offset)
        offset += heads * columns * struct.calcsize(f"<{letter}")
        arrays[array] = np.array(values, dtype=np.float32).reshape(heads, columns)
    assert offset == len(row)
    return arrays


@pytest.mark.parametrize(("layout", "letter"), [(LAYOUT, "e"), (WIDE, "f")])
def test_a_reader_without_project_code_reads_the_rows(
    layout: RowLayout, letter: str, random_arrays: Callable[..., Arrays]
) -> None:
    arrays = random_arrays(layout, 5)
    raw = layout.encode(arrays)
    for number, row in enumerate(raw):
        read = read_by_the_specification(row.tobytes(), heads=2, width=3, attention_width=4, letter=letter)
        for array in ARRAYS:
            np.testing.assert_array_equal(read[array], arrays[array][number])


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (LAYOUT, 8 + 2 * 2 * (3 + 16)),
        (WIDE, 8 + 4 * 2 * (3 + 16)),
        (RowLayout(4, 32, 32, "float16", TAG), 1288),
        (RowLayout(4, 32, 32, "float32", TAG), 2568),
    ],
)
def test_row_size(layout: RowLayout, size: int) -> None:
    assert layout.row_size == size


@pytest.mark.parametrize("layout", [LAYOUT, WIDE])
def test_decode_is_the_inverse_of_encode(layout: RowLayout, random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(layout, 7)
    decoded = layout.decode(layout.encode(arrays))
    assert list(decoded) == list(ARRAYS)
    for array in ARRAYS:
        assert decoded[array].dtype == np.float32
        assert decoded[array].flags.c_contiguous
        np.testing.assert_array_equal(decoded[array], arrays[array])


def test_float16_rows_hold_the_nearest_half(random_arrays: Callable[..., Arrays]) -> None:
    arrays = {array: values / 3 for array, values in random_arrays(LAYOUT, 4).items()}
    decoded = LAYOUT.decode(LAYOUT.encode(arrays))
    for array in ARRAYS:
        # Half an ulp: 11 significant bits.
        np.testing.assert_allclose(decoded[array], arrays[array], rtol=2.0**-11, atol=2.0**-25)


@pytest.mark.parametrize("layout", [LAYOUT, WIDE])
def test_decode_into_given_arrays(layout: RowLayout, random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(layout, 3)
    out = layout.empty(5)
    for values in out.values():
        values.fill(-7.0)
    decoded = layout.decode(layout.encode(arrays), out)
    for array in ARRAYS:
        assert np.shares_memory(decoded[array], out[array])
        np.testing.assert_array_equal(out[array][:3], arrays[array])
        assert (out[array][3:] == -7.0).all()


def test_decode_does_not_write_to_the_rows(random_arrays: Callable[..., Arrays]) -> None:
    raw = LAYOUT.encode(random_arrays(LAYOUT, 3))
    before = raw.copy()
    raw.flags.writeable = False
    LAYOUT.decode(raw)["query"][:] = 0
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize("layout", [LAYOUT, WIDE])
def test_no_rows(layout: RowLayout, random_arrays: Callable[..., Arrays]) -> None:
    raw = layout.encode(random_arrays(layout, 0))
    assert raw.shape == (0, layout.row_size)
    assert layout.decode(raw)["key"].shape == (0, 2, 4)
    assert layout.valid(raw).shape == (0,)
    nothing = layout.decode_values([])
    assert nothing.raw.shape == (0, layout.row_size)
    assert nothing.present.shape == (0,)
    assert nothing.present.dtype == np.bool_


def test_valid_sees_a_change_in_each_byte_of_the_tag(random_arrays: Callable[..., Arrays]) -> None:
    raw = LAYOUT.encode(random_arrays(LAYOUT, 9))
    for byte in range(8):
        raw[byte + 1, byte] ^= 0x80
    assert LAYOUT.valid(raw).tolist() == [True] + 8 * [False]


def test_decode_values_leaves_out_what_is_no_row(random_arrays: Callable[..., Arrays]) -> None:
    rows = [row.tobytes() for row in LAYOUT.encode(random_arrays(LAYOUT, 3))]
    other_tag = b"\0" * 8 + rows[0][8:]
    values = [None, rows[2], rows[1][:-1], rows[0], other_tag, rows[1] + b"\0", b"", None, rows[1]]
    found = LAYOUT.decode_values(values)
    assert found.present.tolist() == [False, True, False, True, False, False, False, False, True]
    assert [row.tobytes() for row in found.raw] == [rows[2], rows[0], rows[1]]
    assert found.num_rejected == 4  # too short, other tag, too long, empty; the two absent ones are not rejected


@pytest.mark.parametrize("values", [[None, None], [b"x"], [b"x", None]])
def test_decode_values_with_no_row_at_all(values: list[bytes | None]) -> None:
    found = LAYOUT.decode_values(values)
    assert found.raw.shape == (0, LAYOUT.row_size)
    assert not found.present.any()
    assert found.num_rejected == sum(value is not None for value in values)


def test_bytes_that_look_like_two_rows_are_not_two_rows(random_arrays: Callable[..., Arrays]) -> None:
    rows = LAYOUT.encode(random_arrays(LAYOUT, 2)).tobytes()
    assert LAYOUT.decode_values([rows]).num_rejected == 1


@pytest.mark.parametrize(("array", "value"), [("key", 65520.0), ("gate", np.nan), ("embedding", -np.inf)])
def test_a_value_that_float16_cannot_hold(array: str, value: float, random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(LAYOUT, 4)
    arrays[array][2, 1, 0] = value
    with pytest.raises(DataError) as caught:
        LAYOUT.encode(arrays)
    expected = "a value is not finite in float16 (largest finite: 65504)"
    assert str(caught.value) == f"rows to store, column '{array}', row 2: {expected}"


def test_the_largest_half_is_stored(random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(LAYOUT, 1)
    arrays["key"][0, 0, 0] = 65504.0
    assert LAYOUT.decode(LAYOUT.encode(arrays))["key"][0, 0, 0] == 65504.0


def test_a_stored_infinity_is_not_turned_into_a_number(random_arrays: Callable[..., Arrays]) -> None:
    raw = LAYOUT.encode(random_arrays(LAYOUT, 2))
    raw[1, 8:10] = (0x00, 0x7C)  # the first embedding value
    assert np.isinf(LAYOUT.decode(raw)["embedding"][1, 0, 0])


def test_encode_refuses_other_shapes(random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(LAYOUT, 2)
    with pytest.raises(ValueError, match=r"^gate: shape \(2, 2, 3\), expected \(2, 2, 4\)$"):
        LAYOUT.encode(arrays | {"gate": arrays["gate"][:, :, :3]})
    with pytest.raises(ValueError, match=r"^key: shape \(1, 2, 4\), expected \(2, 2, 4\)$"):
        LAYOUT.encode(arrays | {"key": arrays["key"][:1]})
    del arrays["query"], arrays["gate"]
    with pytest.raises(
        ValueError, match=r"^arrays: query, gate missing; a row has embedding, query, key, value, gate$"
    ):
        LAYOUT.encode(arrays)


def test_decode_refuses_rows_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"^raw: shape \(3, 83\), expected \(3, 84\)$"):
        LAYOUT.decode(np.zeros((3, 83), dtype=np.uint8))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"width": -1}, "width must be at least 1, got -1"),
        ({"attention_width": 0}, "attention_width must be at least 1, got 0"),
        ({"dtype": "bfloat16"}, "dtype must be one of float16, float32, got 'bfloat16'"),
        ({"tag": b"short"}, "tag must have 8 bytes, got 5"),
    ],
)
def test_a_layout_no_row_can_have(changes: dict[str, Any], text: str) -> None:
    keys: dict[str, Any] = {"heads": 2, "width": 3, "attention_width": 4, "dtype": "float16", "tag": TAG}
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole text is compared
        RowLayout(**(keys | changes))
    assert str(caught.value) == text
