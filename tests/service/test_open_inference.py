"""Requests of the Open Inference Protocol: what is read, and the exact words for what is not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedError, TooManyCandidatesError
from service.open_inference import InferQuery, parse_infer
from service.settings import ReleaseSettings, Settings

DEEP = json.loads("[" * 300 + "]" * 300)
SETTINGS = Settings(release=ReleaseSettings(registry=Path("registry"), model="demo"))


def request(user: Any = None, items: Any = None, **more: Any) -> dict[str, Any]:
    """A right request with parts of its two inputs, or other fields, changed; a part that is ``...`` is left out."""
    inputs = [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u"], **(user or {})},
        {"name": "candidate_ids", "shape": [3], "datatype": "INT64", "data": [1, 2, 3], **(items or {})},
    ]
    return {"inputs": [{k: v for k, v in one.items() if v is not ...} for one in inputs], **more}


def parse(content: Any, raw: bytes | None = None) -> InferQuery:
    text = json.dumps(content).encode()
    return parse_infer(text + (raw or b""), SETTINGS, header_length="" if raw is None else str(len(text)))


def packed(*strings: str) -> bytes:
    return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in strings)


def binary(size: Any, **more: Any) -> dict[str, Any]:
    return {"data": ..., "parameters": {"binary_data_size": size}, **more}


def test_a_request_of_both_inputs_and_nothing_else() -> None:
    query = parse(request())
    assert (query.user_id, query.candidate_ids, query.shape) == ("u", [1, 2, 3], [3])
    assert (query.budget_ms, query.infer_id, query.is_low) == (None, None, False)
    assert query.outputs == {"scores": False, "present": False}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"scores": False, "present": False}),
        ({"outputs": []}, {"scores": False, "present": False}),
        ({"parameters": {"binary_data_output": True}}, {"scores": True, "present": True}),
        ({"outputs": [{"name": "scores"}]}, {"scores": False}),
        ({"outputs": [{"name": "scores"}], "parameters": {"binary_data_output": True}}, {"scores": True}),
        (
            {
                "outputs": [{"name": "present", "parameters": {"binary_data": False}}, {"name": "scores"}],
                "parameters": {"binary_data_output": True},
            },
            {"present": False, "scores": True},
        ),
    ],
)
def test_outputs_in_the_order_and_the_form_asked_for(more: dict[str, Any], expected: dict[str, bool]) -> None:
    assert list(parse(request(**more)).outputs.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("parameters", "budget_ms", "is_low"),
    [
        ({"budget_ms": 20}, 20, False),
        ({"timeout": 1500}, 1.5, False),
        ({"timeout": 0}, None, False),
        ({"budget_ms": 2, "timeout": 0}, 2, False),
        ({"budget_ms": 1, "timeout": 1500}, 1, False),
        ({"budget_ms": 2, "timeout": 1500}, 1.5, False),
        ({"priority": 0}, None, False),
        ({"priority": 1}, None, False),
        ({"priority": 2}, None, True),
        ({"priority": 2**32}, None, True),
    ],
)
def test_budget_and_priority(parameters: dict[str, Any], budget_ms: float | None, is_low: bool) -> None:
    query = parse(request(parameters=parameters))
    assert (query.budget_ms, query.is_low) == (budget_ms, is_low)


@given(st.lists(st.text()), st.text())
def test_binary_strings_are_those_of_json(items: list[str], user: str) -> None:
    shapes = {"shape": [1, len(items)], "datatype": "BYTES"}
    raw = packed(*items)
    by_json = parse(request({"data": [user]}, shapes | {"data": [items]}))
    by_bytes = parse(request(binary(len(packed(user))), binary(len(raw), **shapes)), packed(user) + raw)
    assert by_json == by_bytes
    assert (by_bytes.user_id, by_bytes.candidate_ids) == (user, items)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_binary_integers_are_those_of_json(items: list[int]) -> None:
    shape = {"shape": [len(items)]}
    raw = struct.pack(f"<{len(items)}q", *items)
    assert parse(request(None, shape | {"data": items})) == parse(request(None, binary(len(raw), **shape)), raw)


@given(st.binary(max_size=40), st.integers(0, 5), st.sampled_from(["BYTES", "INT64"]))
def test_any_bytes_are_read_or_refused(raw: bytes, num: int, datatype: str) -> None:
    try:
        query = parse(request(None, binary(len(raw), shape=[num], datatype=datatype)), raw)
    except MalformedError:
        return
    assert len(query.candidate_ids) == num


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "the body must be a JSON object, not a list"),
        ({}, "inputs: must be a list, not null"),
        (request(model="demo"), '"model": unknown field; known are id, inputs, outputs, parameters'),
        (request(id=42), "id: must be a string, not an integer"),
        ({"inputs": []}, "inputs: user_id is required"),
        ({"inputs": request()["inputs"][:1]}, "inputs: candidate_ids is required"),
        ({"inputs": [3]}, "inputs[0]: must be an object, not an integer"),
        ({"inputs": request()["inputs"] * 2}, "inputs[2].name: user_id is there twice"),
        (request({"name": "user"}), 'inputs[0].name: must be one of user_id, candidate_ids, got "user"'),
        (request({"name": ...}), "inputs[0].name: must be one of user_id, candidate_ids, got null"),
        (request({"name": DEEP}), "inputs[0].name: must be one of user_id, candidate_ids, got a list"),
        (request({"shape": DEEP}), "user_id.shape: must be [1] or [1, 1], got a list"),
        (request({"type": 1}), "inputs[0].type: unknown field; known are data, datatype, name, parameters, shape"),
        (request({"shape": [2]}), "user_id.shape: must be [1] or [1, 1], got [2]"),
        (request({"shape": ...}), "user_id.shape: must be [1] or [1, 1], got null"),
        (request(None, {"shape": []}), "candidate_ids.shape: must be [N] or [1, N], got []"),
        (request(None, {"shape": [3, 1]}), "candidate_ids.shape: must be [N] or [1, N], got [3,1]"),
        (request(None, {"shape": [-1]}), "candidate_ids.shape: must be [N] or [1, N], got [-1]"),
        (request(None, {"shape": [True]}), "candidate_ids.shape: must be [N] or [1, N], got [true]"),
        (request({"datatype": "FP32"}), 'user_id.datatype: must be BYTES or INT64, got "FP32"'),
        (request({"datatype": ["BYTES"]}), 'user_id.datatype: must be BYTES or INT64, got ["BYTES"]'),
        (request({"data": "u"}), "user_id.data: must be a list, not a string"),
        (request({"data": ...}), "user_id.data: must be a list, not null"),
        (request(None, {"data": [1, 2]}), "candidate_ids.data: must hold the 3 elements of its shape, got 2"),
        (request(None, {"data": [[1, 2, 3]]}), "candidate_ids.data: must hold the 3 elements of its shape, got 1"),
        (
            request(None, {"data": [1, "2", 3]}),
            'candidate_ids.data[1]: must be a signed integer of 64 bits, for INT64, got "2"',
        ),
        (
            request(None, {"data": [1, 2, 2**63]}),
            "candidate_ids.data[2]: must be a signed integer of 64 bits, for INT64, got 9223372036854775808",
        ),
        (
            request(None, {"data": [1, 2, True]}),
            "candidate_ids.data[2]: must be a signed integer of 64 bits, for INT64, got true",
        ),
        (request({"data": [7]}), "user_id.data[0]: must be a string, as the datatype is BYTES, got 7"),
        (request(outputs={}), "outputs: must be a list, not an object"),
        (request(outputs=[{"name": "score"}]), 'outputs[0].name: must be one of scores, present, got "score"'),
        (request(outputs=[{"name": "scores", "x": 1}]), "outputs[0].x: unknown field; known are name, parameters"),
        (
            request(outputs=[{"name": "scores", "parameters": {"classification": 3}}]),
            "scores.parameters.classification: unknown; known are binary_data",
        ),
        (
            request(outputs=[{"name": "scores", "parameters": {"binary_data": 1}}]),
            "scores.parameters.binary_data: must be true or false, got 1",
        ),
        (request(parameters=[]), "parameters: must be an object, not a list"),
        (
            request(parameters={"sequence_id": 1}),
            "parameters.sequence_id: unknown; known are binary_data_output, budget_ms, priority, timeout",
        ),
        (request(parameters={"budget_ms": 0}), "budget_ms: must be a number above 0 and at most 60000, got 0"),
        (
            request(parameters={"timeout": 1.5}),
            "parameters.timeout: must be a whole number of microseconds from 0 to 60000000, got 1.5",
        ),
        (request(parameters={"priority": -1}), "parameters.priority: must be an integer of at least 0, got -1"),
        (
            request(None, {"parameters": {"shared_memory_region": "a"}}),
            "candidate_ids.parameters.shared_memory_region: unknown; known are binary_data_size",
        ),
        (
            request({"parameters": {"binary_data_size": 3}, "data": ...}),
            "user_id.parameters.binary_data_size: must be the number of bytes of this tensor; 0 stand behind the JSON,"
            " got 3",
        ),
    ],
)
def test_what_is_wrong_is_named(content: Any, text: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse(content)
    assert error.value.message == text


@pytest.mark.parametrize(
    ("user", "items", "raw", "text"),
    [
        ({}, {}, b"x", "inputs: 1 bytes stand behind the JSON that are of no input"),
        ({}, binary(24, data=[1]), b"x" * 24, "candidate_ids.data: cannot stand beside binary_data_size"),
        ({}, binary(23), b"x" * 23, "candidate_ids: 3 elements of INT64 have 24 bytes, got 23"),
        ({}, binary(-1), b"", "candidate_ids.parameters.binary_data_size: must be the number of bytes of this tensor"),
        (binary(3), {}, b"xxx", "user_id: must hold the 1 elements of its shape, got 0"),
        (binary(5), {}, b"\x02\x00\x00\x00x", "user_id[0]: 2 bytes long, 1 are left of the tensor"),
        (binary(6), {}, b"\x01\x00\x00\x00xy", "user_id: 1 bytes stand behind the last element"),
        (binary(5), {}, b"\x01\x00\x00\x00\xff", "user_id[0]: is not UTF-8"),
    ],
)
def test_what_is_wrong_with_binary_tensors_is_named(
    user: dict[str, Any], items: dict[str, Any], raw: bytes, text: str
) -> None:
    with pytest.raises(MalformedError) as error:
        parse(request(user, items), raw)
    assert error.value.message.startswith(text)


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "99999", "٣", "9" * 5000])
def test_the_size_of_the_json_must_be_one(length: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_infer(json.dumps(request()).encode(), SETTINGS, header_length=length)
    assert error.value.message.startswith("inference-header-content-length: must be the size of the JSON, at most the ")


def large_json() -> dict[str, Any]:
    return request(None, {"shape": [10_001], "data": []})


def large_binary() -> dict[str, Any]:
    return request(None, binary(0, shape=[1, 10**15]))


@pytest.mark.parametrize("make", [large_json, large_binary])
def test_too_many_candidates_are_refused_by_their_shape(make: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(TooManyCandidatesError, match="candidates, at most 10000 are accepted"):
        parse(make())
