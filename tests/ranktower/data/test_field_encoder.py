"""One feature: canonical categories, codes, bags, and what it says about wrong values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.data.field_encoder import FieldEncoder, Ragged, canonical_value, factorise, ragged, short
from ranktower.errors import ConfigError

CITY = FieldEncoder(name="city", kind="categorical", vocabulary=("1", "12", "berlin"))
AGE = FieldEncoder(name="age", kind="continuous", edges=(18.0, 30.0, 65.0))
TAGS = FieldEncoder(name="tags", kind="multi_categorical", vocabulary=("a", "b"), max_length=3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("12", "12"), (12, "12"), (12.0, "12"), (np.int32(12), "12"), (np.float32(12), "12"), (np.str_("12"), "12"),
        ("012", "012"), ("", ""), (-3, "-3"), (2**63, "9223372036854775808"), (True, "1"), (False, "0"),
        (np.bool_(True), "1"), (-0.0, "0"), (1e20, "100000000000000000000"), (None, None), ("na\nïve", "na\nïve"),
    ],
)  # fmt: skip
def test_canonical_value(value: Any, text: str | None) -> None:
    assert canonical_value(value) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.5"), (math.nan, "nan"), (math.inf, "inf"), ([1], "[1]"), ({"a": 1}, "{'a': 1}"), (b"x", "b'x'"),
        (1 << 300, "an integer of 301 bits"),
    ],
)  # fmt: skip
def test_what_is_no_category(value: Any, shown: str) -> None:
    with pytest.raises(TypeError) as raised:
        canonical_value(value)
    assert str(raised.value) == f"{shown} is no category: a string, an integer or a boolean is"


cells = st.one_of(
    st.none(), st.text(max_size=3), st.integers(-5, 5), st.booleans(), st.integers(-5, 5).map(float), st.just("3")
)


@given(values=st.lists(cells, max_size=30))
def test_factorise_gives_every_row_its_own_category(values: list[Any]) -> None:
    texts, inverse = factorise(values)
    assert len(set(texts)) == len(texts)
    assert [None if index < 0 else texts[index] for index in inverse] == [canonical_value(value) for value in values]


@given(data=st.data(), kind=st.sampled_from(["int8", "uint8", "int32", "int64", "uint64"]))
def test_factorise_of_integer_arrays_equals_that_of_lists(data: st.DataObject, kind: str) -> None:
    limits = np.iinfo(kind)
    least = data.draw(st.sampled_from([int(limits.min), 0, int(limits.max) - 100]))
    near = st.integers(least, least + 100)
    values = data.draw(st.lists(near | st.integers(int(limits.min), int(limits.max)), max_size=30))
    texts, inverse = factorise(np.array(values, dtype=kind))
    assert [texts[index] for index in inverse] == [str(value) for value in values]


@pytest.mark.parametrize("least", [-(2**63), -50, 0, 2**63 - 101])
def test_factorise_of_dense_integers(least: int) -> None:
    values = least + np.random.default_rng(0).integers(0, 100, 1000)
    texts, inverse = factorise(values)
    assert [texts[index] for index in inverse] == [str(value) for value in values.tolist()]
    assert len(texts) == 100


def test_factorise_takes_nan_in_a_float_array_as_missing() -> None:
    texts, inverse = factorise(np.array([2.0, math.nan, 1.0, math.nan, 2.0]))
    assert [None if index < 0 else texts[index] for index in inverse] == ["2", None, "1", None, "2"]


def test_factorise_of_other_arrays() -> None:
    for values in (np.array([True, False, True]), np.array(["1", "0", "1"]), np.array([1, "0", True], dtype=object)):
        texts, inverse = factorise(values)
        assert [texts[index] for index in inverse] == ["1", "0", "1"]


def test_factorise_names_what_is_no_category() -> None:
    with pytest.raises(TypeError, match=r"^\[2\] is no category"):
        factorise([1, [2]])
    with pytest.raises(TypeError, match=r"^0\.5 is no category"):
        factorise(np.array([1.0, 0.5]))
    with pytest.raises(TypeError, match=r"^nan is no category"):
        factorise(["a", math.nan])


def test_categories_count_from_one_and_everything_else_is_zero() -> None:
    assert CITY.codes(["berlin", 12, "12", 1, True, None, "paris", 12.0]).tolist() == [3, 2, 2, 1, 1, 0, 0, 2]
    assert CITY.codes(np.array([1, 12, 13])).tolist() == [1, 2, 0]
    assert CITY.codes([]).tolist() == []
    assert CITY.codes(["x"]).dtype == np.int32
    assert CITY.cardinality == 4


def test_bins_are_closed_on_their_left() -> None:
    values = [None, -math.inf, 17.999, 18, 29, 30.0, 64.9, 65, math.inf, math.nan]
    assert AGE.codes(np.array(values, dtype=float)).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 0]
    assert AGE.codes([None, 40]).tolist() == [0, 3]
    assert AGE.cardinality == 5


def test_a_feature_without_edges_tells_present_from_missing() -> None:
    constant = FieldEncoder(name="x", kind="continuous")
    assert constant.codes(np.array([math.nan, 3.0])).tolist() == [0, 1]
    assert constant.cardinality == 2


def test_bags_keep_the_first_values_in_order() -> None:
    column = ragged([["b", "a"], None, [], ["a", "z", "b", "a"], [None, "b"]])
    bag, lengths = TAGS.bag(column)
    assert bag.tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 2], [2, 0, 0]]
    assert lengths.tolist() == [2, 0, 0, 3, 1]
    assert (bag.dtype, lengths.dtype) == (np.int32, np.int32)


def test_a_row_that_is_no_list() -> None:
    with pytest.raises(TypeError, match=r"^'ab' is not a list$"):
        ragged([["a"], "ab"])
    flat = Ragged(["a"], np.array([1]))
    assert ragged(flat) is flat


@given(lists=st.lists(st.one_of(st.none(), st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6)), max_size=10))
def test_bags_equal_a_loop_over_rows(lists: list[list[str | None] | None]) -> None:
    bag, lengths = TAGS.bag(ragged(lists))
    for row, values in enumerate(lists):
        codes = [{"a": 1, "b": 2, "c": 0}[value] for value in values or [] if value is not None][:3]
        assert lengths[row] == len(codes)
        assert bag[row].tolist() == codes + [0] * (3 - len(codes))
        assert TAGS.bag_one(values) == codes


@given(value=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**6), 10**6)))
def test_one_number_has_the_code_of_the_column(value: float | None) -> None:
    assert AGE.code_one(value) == AGE.codes([value]).tolist()[0]


@given(value=st.one_of(cells, st.sampled_from(["berlin", 12, 12.0, "12"])))
def test_one_category_has_the_code_of_the_column(value: Any) -> None:
    assert CITY.code_one(value) == CITY.codes([value]).tolist()[0]


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        (AGE, "20", "'20' is not a number"),
        (AGE, True, "True is not a number"),
        (AGE, [20], "[20] is not a number"),
        (AGE, math.nan, "nan is not a finite number"),
        (AGE, -math.inf, "-inf is not a finite number"),
        (CITY, ["berlin"], "['berlin'] is no category: a string, an integer or a boolean is"),
        (CITY, 0.5, "0.5 is no category: a string, an integer or a boolean is"),
        (CITY, 1 << 300, "an integer of 301 bits is no category: a string, an integer or a boolean is"),
    ],
)
def test_one_wrong_value(field: FieldEncoder, value: Any, problem: str) -> None:
    with pytest.raises(TypeError) as raised:
        field.code_one(value)
    assert str(raised.value) == problem


def test_an_integer_beyond_floats_lies_in_the_last_bin() -> None:
    assert AGE.code_one(10**4000) == 4


@pytest.mark.parametrize(
    ("value", "problem"),
    [("a", "'a' is not a list"), ({"a": 1}, "{'a': 1} is not a list"), (["a", ["b"]], "['b'] is no category")],
)
def test_one_wrong_bag(value: Any, problem: str) -> None:
    with pytest.raises(TypeError) as raised:
        TAGS.bag_one(value)
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize("field", [CITY, AGE, TAGS])
def test_json_round_trip(field: FieldEncoder) -> None:
    assert FieldEncoder.from_json(field.to_json()) == field


@pytest.mark.parametrize(
    ("field", "change", "problem"),
    [
        (CITY, {"kind": "sparse"}, "f.kind: one of categorical, continuous, multi_categorical, history, got 'sparse'"),
        (CITY, {"name": 3}, "f.name: not a name, got 3"),
        (CITY, {"vocabulary": "abc"}, "f.vocabulary: not a list, got 'abc'"),
        (CITY, {"vocabulary": ["a", 1]}, "f.vocabulary[1]: not a string, got 1"),
        (CITY, {"vocabulary": ["a", "b", "a"]}, "f.vocabulary[2]: stands there twice, got 'a'"),
        (CITY, {"max_length": 3}, "f.max_length: unknown key, got 3"),
        (TAGS, {"max_length": 0}, "f.max_length: not a positive integer, got 0"),
        (TAGS, {"max_length": True}, "f.max_length: not a positive integer, got True"),
        (AGE, {"edges": None}, "f.edges: not a list, got None"),
        (AGE, {"edges": [1.0, "2"]}, "f.edges[1]: not a finite number, got '2'"),
        (AGE, {"edges": [math.nan]}, "f.edges[0]: not a finite number, got nan"),
        (AGE, {"edges": [1.0, 1.0]}, "f.edges[1]: the edges do not increase, got 1.0 after 1.0"),
        (AGE, {"vocabulary": []}, "f.vocabulary: unknown key, got []"),
    ],
)
def test_wrong_json_is_named(field: FieldEncoder, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FieldEncoder.from_json({**field.to_json(), **change}, "f")
    assert str(raised.value) == problem


def test_json_that_lacks_a_key_or_is_no_mapping() -> None:
    content = AGE.to_json()
    del content["edges"]
    with pytest.raises(ConfigError, match=r"^f\.edges: missing$"):
        FieldEncoder.from_json(content, "f")
    with pytest.raises(ConfigError, match=r"^f: not a mapping, got \[\]$"):
        FieldEncoder.from_json([], "f")


def test_long_values_are_cut_in_errors() -> None:
    assert len(short("x" * 10_000)) < 100
    assert len(short(list(range(10_000)))) < 100
