"""Which ids are the same, which are none, and finding them in sorted keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.embedding_store.ids import IdIndex, canonical_texts, encode_ids, parse_integers, table_keys
from ranktower.embedding_store.slots import build_slots
from ranktower.errors import DataError

INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)
# None of these is 12, nor any other id of a table of integers.
NOT_INTEGERS = [
    "012", "1e3", " 12", "12 ", "12\n", "\n12", "+12", "1_2", "12.0", "0x0c", "1,2", "--12", "-", "-0", "00", "",
    "12\0", "\x0012", "12\0\0", "١٢", "１２", "²", "\ud800", "12\udfff", "true", "None", "nan",
    str(INT64_MAX + 1), str(INT64_MIN - 1), "9" * 400, INT64_MAX + 1, INT64_MIN - 1, 2**64 + 12, 10**400, 10**5000,
    12.0, 12.5, float("nan"), True, False, None, [12], ("12",), b"12", {"id": 12}, object(),
]  # fmt: skip
NOT_THERE = [
    "", "a\0", "\0", "\0a", "a\0b", "\ud800", "a\udfff", None, 1.5, True, [1], b"a", 10**5000,
    "abc", "abcdefg", "abcdef" * 1000, "A", "é", "a ", " a",
]  # fmt: skip


def index_of(ids: list[Any]) -> IdIndex:
    keys = np.sort(table_keys(ids, source="test"))
    return IdIndex(keys, build_slots(keys))


def found(index: IdIndex, ids: list[Any]) -> list[str | None]:
    """The canonical id of what is found for each of ``ids``, None where nothing is; alone as among others."""
    rows, present = index.find(ids)
    remaining = iter(rows.tolist())
    places = [next(remaining) if one else None for one in present]
    assert [index.find_one(one) for one in ids] == places
    return [None if place is None else index.texts(slice(place, place + 1))[0] for place in places]


@pytest.mark.parametrize(
    "wanted", [[12, -5, 0], ["12", "-5", "0"], [12, "-5", 0], [np.int64(12), np.int32(-5), np.str_("0")]]
)
def test_a_number_and_its_string_are_one_id_in_a_table_of_integers(wanted: list[Any]) -> None:
    assert found(index_of([0, 12, -5, 7]), wanted) == ["12", "-5", "0"]


@pytest.mark.parametrize("wanted", [[12, "a"], ["12", "a"]])
def test_a_number_and_its_string_are_one_id_in_a_table_of_strings(wanted: list[Any]) -> None:
    assert found(index_of(["a", 12, "b"]), wanted) == ["12", "a"]


@pytest.mark.parametrize("other", NOT_INTEGERS, ids=range(len(NOT_INTEGERS)))
def test_what_is_no_canonical_integer_is_missing_from_a_table_of_integers(other: Any) -> None:
    index = index_of([-12, 0, 1, 2, 3, 10, 12, 1000, INT64_MAX, INT64_MIN])
    assert found(index, [other]) == [None]
    assert found(index, [12, other, "2"]) == ["12", None, "2"]
    assert found(index, ["12", other]) == ["12", None]


@pytest.mark.parametrize("other", NOT_THERE, ids=range(len(NOT_THERE)))
def test_what_is_not_there_is_missing_from_a_table_of_strings(other: Any) -> None:
    index = index_of(["a", "b", "abcdef", "012", "12"])
    assert found(index, [other]) == [None]
    assert found(index, ["b", other, "abcdef"]) == ["b", None, "abcdef"]


@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 255, 256])
def test_ids_as_long_as_the_keys_or_one_byte_longer(width: int) -> None:
    index = index_of(["k" * width, "other"])
    padded_width = max(-(-width // 8) * 8, 8)
    wanted = ["k" * length for length in (width - 1, width, width + 1, padded_width, padded_width + 1, 1000)]
    assert found(index, wanted) == [one if len(one) == width else None for one in wanted]


@pytest.mark.parametrize("odd", ["", "a\0", "\ud800", None, 7, "é", "x" * 300, "b", "last"])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_odd_id_changes_no_other(odd: Any, place: int) -> None:
    """Whatever makes a request leave the fast path, the 999 others are found as before."""
    names = [f"item-{number}" for number in range(1000)]
    index = index_of([*names, "7", "é"])
    wanted: list[Any] = [*names[:place], odd, *names[place + 1 :]]
    expected: list[Any] = [*names[:place], str(odd) if odd in (7, "é") else None, *names[place + 1 :]]
    assert found(index, wanted) == expected


@pytest.mark.parametrize("odd", ["", "0", "-3", "03", "-", "1,2", ",", "7\0", "\ud800", None, 7, 2**63, "9" * 19, True])
@pytest.mark.parametrize("place", [0, 500, 999])
@pytest.mark.parametrize("kind", [int, str])
def test_one_odd_id_changes_no_other_integer(
    odd: Any, place: int, kind: type, recwarn: pytest.WarningsRecorder
) -> None:
    index = index_of([*range(1000, 2000), 0, -3, 7])
    numbers = [kind(number) for number in range(1000, 2000)]
    wanted: list[Any] = [*numbers[:place], odd, *numbers[place + 1 :]]
    expected = [str(one) for one in numbers]
    expected[place] = str(odd) if odd in ("0", "-3", 7) and odd is not True else None  # type: ignore[call-overload]
    assert found(index, wanted) == expected


def test_leading_zeros_make_another_id() -> None:
    index = index_of(["012", "12", "1e3"])
    assert found(index, ["012", 12, "1e3", 1000]) == ["012", "12", "1e3", None]


@pytest.mark.parametrize("number", [INT64_MAX, INT64_MIN, INT64_MAX - 1, 10**18, -(10**18), 999999999999999999, 0])
def test_the_ends_of_int64(number: int) -> None:
    index = index_of([number, 5])
    assert found(index, [number, str(number), 5]) == [str(number), str(number), "5"]


def test_integers_beyond_int64_make_a_table_of_strings() -> None:
    keys = table_keys([12, 2**64], source="test")
    assert keys.dtype == np.dtype("S24")
    assert found(index_of([12, 2**64]), [2**64, str(2**64), "12", 2**65]) == [str(2**64), str(2**64), "12", None]


def test_ids_of_other_alphabets() -> None:
    ids = ["é", "日本", "😀", "é" * 128, 'quote"', "line\nbreak", "tab\t", "a:b", "{tag}"]
    assert found(index_of(ids), [*ids, "e"]) == [*ids, None]


def test_an_id_longer_than_every_key_is_not_cut_down_to_one() -> None:
    index = index_of(["abc", "abcd"])
    assert found(index, ["abcde", "abcd", "abcdx" * 100]) == [None, "abcd", None]


def test_the_same_id_may_be_asked_for_twice() -> None:
    assert found(index_of(["x", "y"]), ["y", "x", "y", "y"]) == ["y", "x", "y", "y"]


@pytest.mark.parametrize("ids", [[], [5], ["5"], ["a", None]])
def test_an_empty_table(ids: list[Any]) -> None:
    rows, present = index_of([]).find(ids)
    assert rows.shape == (0,)
    assert present.tolist() == [False] * len(ids)


@pytest.mark.parametrize("table", [[1, 2], ["a", "b"]])
def test_an_empty_request(table: list[Any]) -> None:
    rows, present = index_of(table).find([])
    assert rows.shape == (0,)
    assert present.shape == (0,)


@given(
    st.lists(st.one_of(st.integers(), st.text(max_size=12), st.integers(-30, 30).map(str)), max_size=30),
    st.lists(st.one_of(st.integers(), st.text(max_size=12), st.integers(-30, 30)), max_size=30),
)
def test_lookup_is_that_of_a_dictionary_of_strings(table: list[str | int], wanted: list[str | int]) -> None:
    stored = {str(one) for one in table if str(one) and "\0" not in str(one)}
    index = index_of(sorted(stored))
    expected = [str(one) if str(one) in stored else None for one in wanted + table]
    assert found(index, wanted + table) == expected


@given(st.lists(st.one_of(st.integers(-(2**70), 2**70).map(str), st.text("0123456789-, \n", max_size=21)), max_size=20))
def test_parsed_integers_are_those_that_print_the_same(texts: list[str]) -> None:
    def is_canonical(text: str) -> bool:
        try:
            return str(int(text)) == text and INT64_MIN <= int(text) <= INT64_MAX
        except ValueError:
            return False

    values, good = parse_integers(texts)
    assert good.tolist() == [is_canonical(text) for text in texts]
    assert values.tolist() == [int(text) if is_canonical(text) else 0 for text in texts]


def test_canonical_texts_and_their_bytes() -> None:
    ids = [12, "é", "a\0", True, None, 10**5000, -1, "\ud800"]
    assert canonical_texts(ids) == ["12", "é", "a\0", "", "", "", "-1", "\ud800"]
    assert encode_ids(ids) == [b"12", b"\xc3\xa9", b"", b"", b"", b"", b"-1", b""]
    assert encode_ids([]) == []


@pytest.mark.parametrize(
    ("ids", "row", "shown"),
    [
        (["a", "", "b"], 1, "''"),
        (["a\0"], 0, r"'a\x00'"),
        ([1, 2, 3.5], 2, "3.5"),
        ([True], 0, "True"),
        (["ok", "x" * 257], 1, repr("x" * 257)[:100]),
        (["é" * 129], 0, repr("é" * 129)[:100]),
        (["\ud800"], 0, r"'\ud800'"),
        ([7, 10**5000], 1, "an integer of more than 4,300 digits"),
    ],
)
def test_a_table_of_what_is_no_id(ids: list[Any], row: int, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        table_keys(ids, source="items")
    assert str(caught.value) == f"items, column 'id', row {row}: {shown} is not an id (1 to 256 bytes, no NUL)"


def test_an_id_of_256_bytes_is_one() -> None:
    assert found(index_of(["x" * 256, "y"]), ["x" * 256, "x" * 255]) == ["x" * 256, None]


def test_keys_of_more_than_one_block() -> None:
    numbers = np.arange(70_000)
    assert table_keys(numbers, source="test").tolist() == numbers.tolist()
    texts = table_keys([*numbers.tolist(), "last"], source="test")
    assert texts[-1] == b"last"
    assert texts[69_999] == b"69999"
    with pytest.raises(DataError, match=r"row 70000: '' is not an id"):
        table_keys([*numbers.tolist(), ""], source="test")


def test_keys_from_arrays_of_numpy() -> None:
    assert table_keys(np.array(["3", "1"]), source="test").tolist() == [3, 1]
    assert table_keys(np.array(["3", "x"], dtype=object), source="test").tolist() == [b"3", b"x"]
