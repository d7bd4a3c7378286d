"""Rows of bytes: their layout read without the codec, round trips, tags, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
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
SHORT, SHORT_WIDE = replace(LAYOUT, kind="embedding"), replace(WIDE, kind="embedding")
OF_KIND = {"embedding": ("embedding",), "projected": ("embedding", "query", "key", "value", "gate")}


def read_by_the_specification(row: bytes, kind: str, *, letter: str) -> Arrays:
    """docs/formats.md in ten lines of struct: the tag, then the kind's arrays in C order, little-endian; H = 2, D = 3,
    A = 4."""
    assert row[:8] == TAG
    offset, arrays = 8, {}
    for array in OF_KIND[kind]:
        columns = 3 if array == "embedding" else 4
        values = struct.unpack_from(f"<{2 * columns}{letter}", row, offset)
        offset += 2 * columns * struct.calcsize(f"<{letter}")
        arrays[array] = np.array(values, dtype=np.float32).reshape(2, columns)
    assert offset == len(row)
    return arrays


@pytest.mark.parametrize(("layout", "letter"), [(LAYOUT, "e"), (WIDE, "f"), (SHORT, "e"), (SHORT_WIDE, "f")])
def test_a_reader_without_project_code_reads_the_rows(
    layout: RowLayout, letter: str, random_arrays: Callable[..., Arrays]
) -> None:
    arrays = random_arrays(layout, 5)
    raw = layout.encode(arrays)
    for number, row in enumerate(raw):
        read = read_by_the_specification(row.tobytes(), layout.kind, letter=letter)
        assert layout.arrays == tuple(read)
        for array, values in read.items():
            np.testing.assert_array_equal(values, arrays[array][number])


@pytest.mark.parametrize(("layout", "short", "size"), [(LAYOUT, SHORT, 2), (WIDE, SHORT_WIDE, 4)])
def test_an_embedding_row_is_the_beginning_of_the_projected_row(
    layout: RowLayout, short: RowLayout, size: int, random_arrays: Callable[..., Arrays]
) -> None:
    arrays = random_arrays(layout, 6)
    whole, beginning = layout.encode(arrays), short.encode(arrays)
    assert beginning.shape == (6, 8 + size * 2 * 3)
    for number in range(6):
        expected = TAG + arrays["embedding"][number].astype(f"<f{size}").tobytes()
        assert beginning[number].tobytes() == whole[number].tobytes()[: len(expected)] == expected


def test_a_row_without_projections_needs_none(random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(LAYOUT, 3)
    alone = SHORT.encode({"embedding": arrays["embedding"]})
    # What is given besides is left out, whatever it is.
    np.testing.assert_array_equal(SHORT.encode(arrays | {"key": np.full(1, np.nan), "more": np.zeros(0)}), alone)
    with pytest.raises(ValueError, match=r"^arrays: embedding missing; a row has embedding$"):
        SHORT.encode({"key": arrays["key"]})


@pytest.mark.parametrize(
    ("layout", "dtype", "tag_values"),
    [(LAYOUT, "<f2", 4), (WIDE, "<f4", 2), (SHORT, "<f2", 4), (SHORT_WIDE, "<f4", 2)],
)
def test_values_are_the_rows_themselves_seen_as_numbers(
    layout: RowLayout, dtype: str, tag_values: int, random_arrays: Callable[..., Arrays]
) -> None:
    arrays = random_arrays(layout, 4)
    raw = layout.encode(arrays)
    values = layout.values(raw)
    assert values.dtype == np.dtype(dtype)
    assert values.shape == (4, layout.row_size // np.dtype(dtype).itemsize)
    assert np.shares_memory(values, raw)
    np.testing.assert_array_equal(values[:, tag_values : tag_values + 6], arrays["embedding"].reshape(4, 6))
    np.testing.assert_array_equal(values[:, :tag_values].view(np.uint8), np.tile(np.frombuffer(TAG, np.uint8), (4, 1)))
    read_only = np.frombuffer(raw.tobytes(), dtype=np.uint8).reshape(raw.shape)  # as a store's answer is
    np.testing.assert_array_equal(layout.values(read_only)[:, tag_values:], values[:, tag_values:])
    assert layout.values(raw[:0]).shape == (0, values.shape[1])


@pytest.mark.parametrize("layout", [LAYOUT, SHORT_WIDE])
def test_values_of_rows_of_another_size_are_refused(layout: RowLayout) -> None:
    size = layout.row_size
    for wrong in (size - 2, size + 2, 0):
        with pytest.raises(ValueError, match=rf"^raw: shape \(3, {wrong}\), expected \(3, {size}\)$"):
            layout.values(np.zeros((3, wrong), dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"^raw: shape \({size},\), expected \({size}, {size}\)$"):
        layout.values(np.zeros(size, dtype=np.uint8))


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (LAYOUT, 8 + 2 * 2 * (3 + 16)),
        (WIDE, 8 + 4 * 2 * (3 + 16)),
        (RowLayout(4, 32, 32, "float16", TAG), 1288),
        (RowLayout(4, 32, 32, "float32", TAG), 2568),
        (SHORT, 8 + 2 * 2 * 3),
        (SHORT_WIDE, 8 + 4 * 2 * 3),
        (RowLayout(4, 32, 32, "float16", TAG, kind="embedding"), 264),
        (RowLayout(4, 32, 32, "float32", TAG, kind="embedding"), 520),
    ],
)
def test_row_size(layout: RowLayout, size: int) -> None:
    assert layout.row_size == size


@pytest.mark.parametrize("layout", [LAYOUT, WIDE, SHORT, SHORT_WIDE])
def test_decode_is_the_inverse_of_encode(layout: RowLayout, random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(layout, 7)
    decoded = layout.decode(layout.encode(arrays))
    assert tuple(decoded) == OF_KIND[layout.kind]
    for array in decoded:
        assert decoded[array].dtype == np.float32
        assert decoded[array].flags.c_contiguous
        np.testing.assert_array_equal(decoded[array], arrays[array])


def test_float16_rows_hold_the_nearest_half(random_arrays: Callable[..., Arrays]) -> None:
    arrays = {array: values / 3 for array, values in random_arrays(LAYOUT, 4).items()}
    decoded = LAYOUT.decode(LAYOUT.encode(arrays))
    for array in ARRAYS:
        # Half an ulp: 11 significant bits.
        np.testing.assert_allclose(decoded[array], arrays[array], rtol=2.0**-11, atol=2.0**-25)


def test_decode_does_not_write_to_the_rows(random_arrays: Callable[..., Arrays]) -> None:
    raw = LAYOUT.encode(random_arrays(LAYOUT, 3))
    before = raw.copy()
    raw.flags.writeable = False
    LAYOUT.decode(raw)["query"][:] = 0
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize("layout", [LAYOUT, WIDE, SHORT, SHORT_WIDE])
def test_no_rows(layout: RowLayout, random_arrays: Callable[..., Arrays]) -> None:
    raw = layout.encode(random_arrays(layout, 0))
    assert raw.shape == (0, layout.row_size)
    assert layout.decode(raw)["embedding"].shape == (0, 2, 3)
    assert layout.valid(raw).shape == (0,)
    for nothing in (layout.decode_values([]), layout.no_rows(0)):
        assert nothing.layout == layout
        assert nothing.raw.shape == (0, layout.row_size)
        assert nothing.present.shape == (0,)
        assert nothing.present.dtype == np.bool_
    assert layout.no_rows(3).present.tolist() == [False] * 3


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
    assert found.layout == LAYOUT
    assert found.num_rejected == 4  # too short, other tag, too long, empty; the two absent ones are not rejected


@pytest.mark.parametrize("values", [[None, None], [b"x"], [b"x", None]])
def test_decode_values_with_no_row_at_all(values: list[bytes | None]) -> None:
    found = LAYOUT.decode_values(values)
    assert found.raw.shape == (0, LAYOUT.row_size)
    assert not found.present.any()
    assert found.num_rejected == sum(value is not None for value in values)


def test_a_row_of_the_other_kind_is_no_row(random_arrays: Callable[..., Arrays]) -> None:
    arrays = random_arrays(LAYOUT, 1)
    whole, beginning = LAYOUT.encode(arrays)[0].tobytes(), SHORT.encode(arrays)[0].tobytes()
    for layout, good, other in ((LAYOUT, whole, beginning), (SHORT, beginning, whole)):
        found = layout.decode_values([other, good])
        assert found.present.tolist() == [False, True]
        assert found.num_rejected == 1


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
        ({"kind": "raw"}, "kind must be one of embedding, projected, got 'raw'"),
    ],
)
def test_a_layout_no_row_can_have(changes: dict[str, Any], text: str) -> None:
    keys: dict[str, Any] = {"heads": 2, "width": 3, "attention_width": 4, "dtype": "float16", "tag": TAG}
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole text is compared
        RowLayout(**(keys | changes))
    assert str(caught.value) == text
