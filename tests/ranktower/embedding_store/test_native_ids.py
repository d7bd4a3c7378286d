"""The native lookup of ids: with it and without it the answers are the same, whatever the tables and the ids are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranktower.embedding_store import ids as ids_module
from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.ids import IdIndex
from ranktower.embedding_store.joined_ids import JoinedIds
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.native_ids import NativeIdIndex, open_index
from ranktower.embedding_store.slots import build_slots
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ReleaseError

native = pytest.importorskip("ranktower_native", reason="the package ranktower-native is not installed")

INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)
LAYOUT = RowLayout(heads=2, width=3, attention_width=4, dtype="float16", tag=b"release1")
FOREIGN = b"release2"
INTEGERS = st.one_of(
    st.integers(-40, 40),
    st.integers(INT64_MIN, INT64_MAX),
    st.builds(
        lambda sign, bits, step: sign * (1 << bits) + step,
        st.sampled_from([1, -1]), st.sampled_from([15, 30, 31, 32, 45, 60, 62]), st.integers(-1, 1),
    ),
    st.sampled_from([INT64_MIN, INT64_MIN + 1, INT64_MAX - 1, INT64_MAX]),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=10),
    st.text("ab", min_size=1, max_size=40),
    INTEGERS.map(str),
)


class Colour(IntEnum):
    """An integer, of a type of its own."""

    RED = 1


ODD_IDS: list[Any] = [
    None, True, False, 1.0, 12.5, float("nan"), "", "\0", "a\0", "\0a", "1\x002", "12\0", "\ud800", "a\udfff", b"a",
    [1], (1,), {}, object(), 10**5000, 2**64, -(2**64), 2**64 + 1, 2**75, INT64_MAX + 1, INT64_MIN - 1,
    str(INT64_MAX + 1), str(INT64_MIN - 1), str(2**64), "9" * 19, "9" * 20, "-", "--1", "-0", "+1", "00", "01", "-01",
    " 1", "1 ", "1,2", "1e3", "1_2", "1.0", "١٢", "²", "/1", "1/", "1:", ":1", "x" * 257, "x" * 5000,
    np.int64(7), np.int32(-3), np.uint64(2**63), np.float64(7), np.bool_(True), np.str_("a"), Colour.RED,
]  # fmt: skip
ODD = st.one_of(st.sampled_from(ODD_IDS), st.text(max_size=30), st.text("0123456789-:/ ", max_size=22), st.integers())


def sorted_keys(ids: Sequence[int] | Sequence[str], width: int | None) -> NDArray[Any]:
    """The keys of a table: int64, or UTF-8 of ``width`` bytes; what does not fit is left out."""
    if width is None:
        return np.unique(np.array(ids, dtype=np.int64))
    return np.unique(np.array([raw for one in ids if len(raw := str(one).encode()) <= width], dtype=f"S{width}"))


def tagged_rows(num_rows: int, seed: int = 0, row_size: int = 26) -> NDArray[np.uint8]:
    """Rows of which every third or so is of another release."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (num_rows, row_size), dtype=np.uint8)
    rows[:, :8] = np.frombuffer(LAYOUT.tag, dtype=np.uint8)
    rows[generator.random(num_rows) < 0.3, generator.integers(0, 8)] ^= 1
    return rows


def both(keys: NDArray[Any], slots: NDArray[np.uint64], rows: NDArray[np.uint8]) -> tuple[IdIndex, NativeIdIndex]:
    """The same table, looked up in Python and natively."""
    one, other = (open_index(keys, slots, rows=rows, tag=LAYOUT.tag, native=wanted) for wanted in (False, True))
    assert type(one) is IdIndex
    assert isinstance(other, NativeIdIndex)
    return one, other


def assert_same(python: IdIndex, other: IdIndex, ids: Sequence[Any]) -> None:
    for method in ("find", "find_valid"):
        expected, answer = getattr(python, method)(ids), getattr(other, method)(ids)
        np.testing.assert_array_equal(answer[0], expected[0])
        np.testing.assert_array_equal(answer[1], expected[1])
        assert answer[2:] == expected[2:]
        assert (answer[0].dtype, answer[1].dtype) == (np.int64, np.bool_)
    for one in ids[:3]:
        assert other.find_one(one) == python.find_one(one)


def damaged(slots: NDArray[np.uint64], how: str, seed: int) -> NDArray[np.uint64]:
    generator, low = np.random.default_rng(seed), np.uint64(2**32 - 1)
    return {
        "none": slots,
        "zeros": np.zeros_like(slots),
        "ones": np.full_like(slots, 2**64 - 1),
        "noise": generator.integers(0, 2**64, len(slots), dtype=np.uint64),
        "shifted": np.roll(slots, 1),
        "full": np.where(slots == 0, generator.integers(1, 2**64, len(slots), dtype=np.uint64), slots),
        "other rows": slots & ~low | generator.permutation(slots & low),
        "rows out of range": slots | low,
    }[how]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_both_ways_give_the_same_answers(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([None, 8, 16, 24, 32, 40]))
    of_table = INTEGERS if width is None else TEXTS
    stored: list[Any] = data.draw(st.lists(of_table, max_size=60))
    keys = sorted_keys(stored, width)
    how = data.draw(
        st.sampled_from(["none", "zeros", "ones", "noise", "shifted", "full", "other rows", "rows out of range"])
    )
    slots = damaged(build_slots(keys), how, data.draw(st.integers(0, 9)))
    python, other = both(keys, slots, tagged_rows(len(keys)))
    known = python.texts(slice(None)) or ["0"]
    present = st.sampled_from(known)
    kinds = {
        "texts": st.one_of(present, TEXTS),
        "integers": st.one_of(INTEGERS, present.filter(lambda one: one.lstrip("-").isdecimal()).map(int))
        if width is None else INTEGERS,
        "both": st.one_of(present, INTEGERS, TEXTS),
        "odd among texts": st.one_of(present, TEXTS, ODD),
        "odd among integers": st.one_of(INTEGERS, ODD),
    }  # fmt: skip
    wanted = data.draw(st.lists(kinds[data.draw(st.sampled_from(sorted(kinds)))], max_size=30))
    repeated = wanted * data.draw(st.integers(1, 10))
    assert_same(python, other, repeated)
    assert_same(python, other, tuple(repeated))


@pytest.mark.parametrize("width", [None, 8, 16, 24, 32, 40, 256])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 300])
def test_requests_of_every_length(width: int | None, count: int) -> None:
    keys = sorted_keys(range(-500, 3000, 3), width)
    python, other = both(keys, build_slots(keys), tagged_rows(len(keys)))
    wanted = list(range(-510, 5 * count - 510, 5))
    assert len(wanted) == count
    assert_same(python, other, wanted)
    assert_same(python, other, list(map(str, wanted)))
    if count > 8:
        assert python.find(wanted)[1].any()


@pytest.mark.parametrize("width", [None, 8, 24, 40])
@pytest.mark.parametrize("first", [5, "5", None])
def test_odd_ids_in_a_table_of_what_they_could_be_taken_for(width: int | None, first: Any) -> None:
    stored = [*range(-100, 200), INT64_MAX, INT64_MIN]
    of_texts = [str(INT64_MAX + 1), str(2**64), "x" * 8, "x" * 24, "x" * 40, "1", "01", "-0", "9" * 19, "a"]
    keys = sorted_keys(stored if width is None else [*map(str, stored), *of_texts], width)
    python, other = both(keys, build_slots(keys), tagged_rows(len(keys)))
    for ids in ([one] * 10 for one in [*ODD_IDS, *of_texts, *("x" * length for length in range(50))]):
        assert_same(python, other, [first, *ids])
    assert_same(python, other, [first, *ODD_IDS])
    assert_same(python, other, [first, *(one for one in ODD_IDS if type(one) is int)])


@pytest.mark.parametrize("how", ["noise", "full", "other rows", "rows out of range", "ones"])
@pytest.mark.parametrize("width", [None, 8, 24])
def test_large_tables_with_damaged_slots(width: int | None, how: str) -> None:
    keys = sorted_keys(range(20_000), width)
    python, other = both(keys, damaged(build_slots(keys), how, 1), tagged_rows(len(keys)))
    wanted = list(range(-100, 21_000, 7))
    assert_same(python, other, wanted)
    assert_same(python, other, list(map(str, wanted)))


@pytest.mark.parametrize("width", [None, 8, 40])
def test_keys_at_the_very_end_of_the_slots(width: int | None) -> None:
    """A window that would go on behind the last slot."""
    keys = sorted_keys(range(3), width)
    slots = np.full(13, 2**64 - 1, dtype=np.uint64)
    python, other = both(keys, slots, tagged_rows(3))
    assert_same(python, other, list(range(-50, 300)))


def test_an_empty_table() -> None:
    for width in (None, 8):
        keys = sorted_keys([], width)
        python, other = both(keys, build_slots(keys), tagged_rows(0))
        for wanted in ([], [5], ["5"], ["a", None], list(range(100))):
            assert_same(python, other, wanted)


@pytest.mark.parametrize("odd", [None, True, 1.5, "\0", "3\x004", "\ud800", 2**63, 10**5000, "", [1]], ids=range(10))
@pytest.mark.parametrize("place", [0, 50, 99])
@pytest.mark.parametrize("kind", [int, str])
@pytest.mark.parametrize("width", [None, 16])
def test_one_odd_id_changes_no_other(odd: Any, place: int, kind: type, width: int | None) -> None:
    keys = sorted_keys(range(1000), width)
    _, other = both(keys, build_slots(keys), tagged_rows(1000))
    wanted: list[Any] = [kind(number) for number in range(100)]
    wanted[place] = odd
    rows, present = other.find(wanted)
    expected = [number for number in range(100) if number != place]
    assert present.nonzero()[0].tolist() == expected
    assert [int(one) for one in other.texts(rows)] == expected


def test_rows_of_another_release_are_rejected_and_counted() -> None:
    keys = np.arange(1000, dtype=np.int64)
    rows = tagged_rows(1000)
    rows[:, :8] = np.frombuffer(LAYOUT.tag, dtype=np.uint8)
    rows[100:200, :8] = np.frombuffer(FOREIGN, dtype=np.uint8)
    _, other = both(keys, build_slots(keys), rows)
    found, present, num_rejected = other.find_valid([*range(95, 205), 5000, 150])
    assert found.tolist() == [*range(95, 100), *range(200, 205)]
    assert present.nonzero()[0].tolist() == [0, 1, 2, 3, 4, *range(105, 110)]
    assert num_rejected == 101
    assert len(other.find(list(range(95, 205)))[0]) == 110


@pytest.mark.parametrize("wanted", [True, False])
def test_without_rows_there_are_no_tags(wanted: bool) -> None:
    keys = np.arange(20, dtype=np.int64)
    with pytest.raises(ValueError, match="rows: not given, so there are no tags"):
        open_index(keys, build_slots(keys), native=wanted).find_valid([1, 2])


@pytest.mark.parametrize("ids", [[30, -1, 20, 7], ["item-c", "é", "item-a", "b"]])
def test_a_table_can_be_opened_without_it(ids: list[Any], tmp_path: Path, random_arrays: Any) -> None:
    arrays = random_arrays(LAYOUT, 4)
    write_table(tmp_path, ids, lambda rows: {array: values[rows] for array, values in arrays.items()}, LAYOUT)
    with (tmp_path / "rows.bin").open("r+b") as file:
        file.seek(LAYOUT.row_size)
        file.write(FOREIGN)
    tables = [LocalTable(tmp_path, LAYOUT, native=wanted) for wanted in (False, True)]
    wanted = [*ids, "nobody", str(ids[0])] * 3
    plain, fast = (table.locate(wanted) for table in tables)
    assert fast.positions.tolist() == plain.positions.tolist()
    assert fast.present.tolist() == plain.present.tolist()
    assert fast.num_rejected == plain.num_rejected
    assert plain.num_rejected in (3, 6)
    assert fast.whole().tobytes() == plain.whole().tobytes()
    assert tables[1].fetch(ids[:1]).raw.tobytes() == tables[0].fetch(ids[:1]).raw.tobytes()


def test_without_the_package_ids_are_found_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.arange(20, dtype=np.int64)
    monkeypatch.setitem(sys.modules, "ranktower_native", None)
    index = open_index(keys, build_slots(keys), rows=tagged_rows(20), tag=LAYOUT.tag)
    assert type(index) is IdIndex


def test_a_python_of_another_marshal_format_is_counted_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.arange(0, 1000, 3, dtype=np.int64)
    python, other = both(keys, build_slots(keys), tagged_rows(len(keys)))
    monkeypatch.setattr("ranktower_native.ids._reads_marshal", lambda: False)
    for wanted in ([], [3], list(range(100)), [3, True], [3, 2**63, 6], [3, "6"]):
        assert_same(python, other, wanted)


def test_this_python_is_read_in_one_pass() -> None:
    assert native.ids._reads_marshal()


def test_keys_wider_than_an_id_are_no_table(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([b"a"], dtype="S264"))
    (tmp_path / "rows.bin").write_bytes(bytes(LAYOUT.row_size))
    with pytest.raises(ReleaseError) as caught:
        LocalTable(tmp_path, LAYOUT)
    assert str(caught.value) == f"{tmp_path}/ids.npy: keys of 264 bytes; expected at most {ids_module.MAX_ID_BYTES}"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keys": np.zeros(2, dtype="<i4")}, r"keys: <i4 of shape \(2,\); expected int64 or S<width>, contiguous"),
        ({"keys": np.zeros(4, dtype="<i8")[::2]}, "expected int64 or S<width>, contiguous"),
        ({"keys": np.zeros(2, dtype="S12")}, "keys of 12 bytes; expected a multiple of 8 up to 256"),
        ({"keys": np.zeros(2, dtype="S264")}, "keys of 264 bytes"),
        ({"slots": np.zeros(8, dtype="<u8")}, "8 slots; 2 keys need more than 8"),
        ({"slots": np.zeros(9, dtype="<i8")}, "slots: <i8 of shape"),
        ({"rows": np.zeros((1, 26), dtype=np.uint8)}, "expected bytes of 2 rows"),
        ({"rows": np.zeros((2, 7), dtype=np.uint8)}, "rows of 7 bytes, tag of 8; a tag has 8"),
        ({"tag": b"short"}, "tag of 5"),
    ],
)
def test_arrays_of_another_shape_are_refused(change: dict[str, Any], text: str) -> None:
    sound = {
        "keys": np.arange(2),
        "slots": np.zeros(9, dtype="<u8"),
        "rows": np.zeros((2, 26), np.uint8),
        "tag": bytes(8),
    }
    arrays: dict[str, Any] = sound | change
    with pytest.raises(native.NativeError, match=text):
        native.NativeIds(arrays["keys"], arrays["slots"], rows=arrays["rows"], tag=arrays["tag"])


@pytest.mark.parametrize(
    ("joined", "count"),
    [(b"1", 0), (b"", 2), (b"1", 2), (b"1\x002\x003", 2), (b"1\x002\0", 2), (b"\0", 1), (b"1\x002", 200)],
)
@pytest.mark.parametrize("keys", [np.arange(5), np.array([b"1", b"2"], dtype="S8")])
def test_texts_that_are_not_so_many_ids(joined: bytes, count: int, keys: NDArray[Any]) -> None:
    assert native.NativeIds(keys, build_slots(keys)).find_texts(joined, count) is None


def test_values_of_another_type_are_refused() -> None:
    table = native.NativeIds(np.arange(5), build_slots(np.arange(5)))
    with pytest.raises(ValueError, match="values: <i4, 1 axes; expected int64, one axis, contiguous"):
        table.find_integers(np.arange(5, dtype=np.int32))
    assert table.find_integers(np.array([3, 9, 0])).rows.tolist() == [3, 0]


def test_a_library_that_cannot_be_loaded_leaves_the_lookup_to_python(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise native.NativeError("libranktower_native.so: cannot be loaded: wrong ELF class")

    monkeypatch.setattr("ranktower_native.ids.library", broken)
    keys = np.arange(10, dtype=np.int64)
    index = open_index(keys, build_slots(keys))
    assert type(index) is IdIndex
    assert index.find(["3", 12])[0].tolist() == [3]
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("WARNING", "ids are looked up in Python")
    assert "wrong ELF class" in vars(record)["fields"]["detail"]


@pytest.mark.parametrize("keys", [np.array([-5, 3, 12, 40]), np.array([b"12", b"3", b"x", b"yy"], dtype="S8")])
def test_ids_left_as_text_are_found_with_and_without_it(keys: NDArray[Any]) -> None:
    ids: list[str | int] = ["3", 12, "x", "", 7, -5]
    joined = JoinedIds(b"3\x0012\x00x\x00\x007\x00-5", len(ids), lambda: ids)
    python, other = IdIndex(keys, build_slots(keys)), NativeIdIndex(keys, build_slots(keys))
    expected = [found.tolist() for found in python.find(ids)]
    assert [found.tolist() for found in python.find(joined)] == expected
    assert [found.tolist() for found in other.find(joined)] == expected
