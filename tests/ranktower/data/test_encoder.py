"""Both sides' encoders: whole tables, one request, and features.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.data.field_encoder import FieldEncoder, Ragged
from ranktower.errors import ConfigError

USER = SideEncoder(
    (
        FieldEncoder(name="country", kind="categorical", vocabulary=("de", "fr")),
        FieldEncoder(name="history", kind="history", vocabulary=("7", "9"), max_length=2),
        FieldEncoder(name="age", kind="continuous", edges=(18.0, 65.0)),
    )
)
ITEM = SideEncoder((FieldEncoder(name="tags", kind="multi_categorical", vocabulary=("a",), max_length=3),))
ENCODER = FeatureEncoder(user=USER, item=ITEM)


def test_what_a_side_knows_of_its_fields() -> None:
    assert USER.single_fields == ("country", "age")
    assert USER.bag_fields == ("history",)
    assert USER.cardinalities == {"country": 3, "history": 3, "age": 4}
    assert USER.max_lengths == {"history": 2}


def test_a_table() -> None:
    columns = {
        "age": np.array([17.0, np.nan, 65.0]),
        "history": [[9, "8", 7], None, [7.0]],
        "country": ["fr", None, "it"],
        "colour": ["red", "red", "red"],
    }
    encoded = USER.encode(columns, 3)
    assert encoded.codes.tolist() == [[2, 1], [0, 0], [0, 3]]
    assert encoded.bags["history"].tolist() == [[2, 0], [0, 0], [1, 0]]
    assert encoded.lengths["history"].tolist() == [2, 0, 1]
    assert encoded.codes.dtype == encoded.bags["history"].dtype == encoded.lengths["history"].dtype == np.int32
    assert len(encoded) == 3


def test_absent_columns_are_missing_everywhere() -> None:
    encoded = USER.encode({}, 2)
    assert encoded.codes.tolist() == [[0, 0], [0, 0]]
    assert encoded.bags["history"].tolist() == [[0, 0], [0, 0]]
    assert encoded.lengths["history"].tolist() == [0, 0]


def test_a_side_without_single_fields_still_has_rows() -> None:
    encoded = ITEM.encode({"tags": Ragged(["a", "b"], np.array([0, 2]))}, 2)
    assert encoded.codes.shape == (2, 0)
    assert len(encoded) == 2
    assert encoded.bags["tags"].tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("rows", [[2, 0, 2], slice(1, 3), np.array([True, False, True])])
def test_take(rows: Any) -> None:
    encoded = USER.encode({"age": [1, 20, 70], "history": [[7], [9, 9], []]}, 3)
    taken = encoded.take(rows)
    assert isinstance(taken, EncodedFeatures)
    assert taken.codes.tolist() == encoded.codes[rows].tolist()
    assert taken.bags["history"].tolist() == encoded.bags["history"][rows].tolist()
    assert taken.lengths["history"].tolist() == encoded.lengths["history"][rows].tolist()


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"country": ["de"]}, "feature 'country': 1 values for 2 rows"),
        ({"history": [[7]]}, "feature 'history': 1 values for 2 rows"),
        ({"history": ["7", "9"]}, "feature 'history': '7' is not a list"),
        ({"history": [[[7]], []]}, "feature 'history': [7] is no category"),
        ({"country": ["de", 0.5]}, "feature 'country': 0.5 is no category"),
        ({"country": Ragged(["de"], np.array([1, 0]))}, "feature 'country': lists, where the feature has one value"),
        ({"age": ["x", "y"]}, "feature 'age': could not convert string to float"),
    ],
)
def test_a_wrong_column_is_named(columns: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        USER.encode(columns, 2)
    assert str(raised.value).startswith(problem)


def test_one_request() -> None:
    encoded = USER.encode_one({"country": "fr", "age": 65, "history": [9, None, "8", 7]})
    assert encoded.codes.tolist() == [[2, 3]]
    assert encoded.bags["history"].tolist() == [[2, 0]]
    assert encoded.lengths["history"].tolist() == [2]


@pytest.mark.parametrize("features", [{}, {"country": None, "age": None, "history": None}])
def test_one_request_that_says_nothing(features: dict[str, Any]) -> None:
    encoded = USER.encode_one(features)
    assert encoded.codes.tolist() == [[0, 0]]
    assert encoded.lengths["history"].tolist() == [0]


values = st.fixed_dictionaries(
    {},
    optional={
        "country": st.one_of(st.none(), st.sampled_from(["de", "fr", "it", ""]), st.integers(), st.booleans()),
        "age": st.one_of(st.none(), st.integers(-100, 100), st.floats(allow_nan=False, allow_infinity=False)),
        "history": st.one_of(
            st.none(), st.lists(st.one_of(st.none(), st.integers(6, 10), st.sampled_from(["7", "x"])), max_size=5)
        ),
    },
)


@given(requests=st.lists(values, min_size=1, max_size=8))
def test_one_by_one_equals_the_table(requests: list[dict[str, Any]]) -> None:
    columns = {name: [request.get(name) for request in requests] for name in ("country", "age", "history")}
    columns["age"] = [None if age is None else float(age) for age in columns["age"]]
    table = USER.encode(columns, len(requests))
    for row, request in enumerate(requests):
        one = USER.encode_one(request)
        assert one.codes.tolist() == table.codes[[row]].tolist()
        assert one.bags["history"].tolist() == table.bags["history"][[row]].tolist()
        assert one.lengths["history"].tolist() == table.lengths["history"][[row]].tolist()


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        ({"colour": "red"}, "unknown feature 'colour' = 'red'; known: country, history, age"),
        ({"age": "20"}, "feature 'age': '20' is not a number"),
        ({"age": False}, "feature 'age': False is not a number"),
        ({"age": float("nan")}, "feature 'age': nan is not a finite number"),
        ({"country": ["de"]}, "feature 'country': ['de'] is no category: a string, an integer or a boolean is"),
        ({"country": 1.5}, "feature 'country': 1.5 is no category: a string, an integer or a boolean is"),
        ({"history": 7}, "feature 'history': 7 is not a list"),
        ({"history": [[7]]}, "feature 'history': [7] is no category: a string, an integer or a boolean is"),
        ({"history": [7, 9, 7, {}]}, "feature 'history': {} is no category: a string, an integer or a boolean is"),
    ],
)
def test_a_wrong_request_is_named(features: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        USER.encode_one(features)
    assert str(raised.value) == problem


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    ENCODER.save(path)
    assert FeatureEncoder.load(path) == ENCODER
    assert path.read_text(encoding="ascii") == ENCODER.to_text()


def test_the_format_is_the_documented_one(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    ENCODER.save(path)
    assert json.loads(path.read_bytes()) == {
        "format_version": 1,
        "user": [
            {"name": "country", "kind": "categorical", "vocabulary": ["de", "fr"]},
            {"name": "history", "kind": "history", "max_length": 2, "vocabulary": ["7", "9"]},
            {"name": "age", "kind": "continuous", "edges": [18.0, 65.0]},
        ],
        "item": [{"name": "tags", "kind": "multi_categorical", "max_length": 3, "vocabulary": ["a"]}],
    }


@given(
    vocabulary=st.lists(st.text(), unique=True, max_size=5),
    edges=st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True, max_size=5).map(sorted),
)
def test_any_text_and_any_float_survive(vocabulary: list[str], edges: list[float]) -> None:
    side = SideEncoder(
        (
            FieldEncoder(name="a", kind="categorical", vocabulary=tuple(vocabulary)),
            FieldEncoder(name="b", kind="continuous", edges=tuple(edges)),
        )
    )
    encoder = FeatureEncoder(user=side, item=side)
    assert FeatureEncoder.from_json(json.loads(encoder.to_text())) == encoder


def changed(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(ENCODER.to_text())
    return {**content, **changes}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed(format_version=2), "format_version: 1 is read here, got 2"),
        (changed(format_version=True), "format_version: 1 is read here, got True"),
        (changed(format_version="1"), "format_version: 1 is read here, got '1'"),
        ({}, "format_version: 1 is read here, got None"),
        ([], "not a mapping, got []"),
        (changed(extra=3), "features.extra: unknown key, got 3"),
        ({"format_version": 1, "user": []}, "features.item: missing"),
        (changed(user={}), "user: not a list, got {}"),
        (changed(item=[{"name": "a"}]), "item[0].kind: missing"),
        (changed(user=[{"name": "a", "kind": "continuous", "edges": []}] * 2), "user: a feature is named twice"),
        (changed(user=[{"name": "a", "kind": "continuous", "edges": [2, 1]}]), "user[0].edges[1]: the edges do not"),
    ],
)
def test_a_wrong_features_json_is_named(tmp_path: Path, content: Any, problem: str) -> None:
    path = tmp_path / "features.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as raised:
        FeatureEncoder.load(path)
    assert str(raised.value).startswith(f"{path}: {problem}")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe"])
def test_a_features_json_that_is_no_json(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "features.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as raised:
        FeatureEncoder.load(path)
    assert str(raised.value).startswith(f"{path}: cannot read the feature encoder: ")


def test_a_missing_features_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: cannot read the feature encoder: "):
        FeatureEncoder.load(tmp_path / "absent.json")


def test_the_encoder_needs_neither_polars_nor_torch() -> None:
    code = "import sys, ranktower.data.encoder; print(sorted({'polars', 'torch', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
