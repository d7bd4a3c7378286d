"""Candidates left as text: the query is the one that parsing the whole body gives, or the same error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ranktower.embedding_store.ids import encode_ids
from ranktower.embedding_store.joined_ids import JoinedIds
from service import candidate_text, parsing
from service.candidate_text import split_candidates
from service.errors import ServiceError
from service.parsing import parse_rank, parse_score
from service.settings import Settings

SETTINGS = Settings.model_validate({"release": {"registry": "/r", "model": "m"}, "limits": {"max_candidates": 50}})
PLAIN = st.one_of(st.text("ab/-_ 9", max_size=20), st.integers(1 - 10**18, 10**18 - 1))
ANY = st.one_of(PLAIN, st.text(max_size=9), st.integers(-(2**63), 2**64 - 1), st.floats(), st.none(), st.lists(PLAIN))
MARKS = st.sampled_from([bytes([mark]) for mark in b'[]{}",:\\'])
OTHERS: list[dict[str, Any]] = [
    {}, {"user_id": 1}, {"user_id": "candidate_ids"}, {"user_id": '"candidate_ids'}, {"user_id": 1, "budget_ms": 3},
    {"user_id": 1, "user_features": {"candidate_ids": ["a"]}}, {"user_id": 1, "item_features": {"a": {}}},
    {"user_id": 1, "other": 1}, {"user_id": "\\"}, {"user_id": 1, "budget_ms": -1}, {"user_id": "ü"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ranktower_native", reason="the package ranktower-native is not installed")
    monkeypatch.setattr(candidate_text, "_LEAST_BYTES", 0)


def outcome(parse: Any, body: bytes) -> Any:
    try:
        query = parse(body, SETTINGS)
    except ServiceError as error:
        return type(error), error.message
    given = query.candidate_ids
    fields = {name: getattr(query, name) for name in type(query).__dataclass_fields__ if name != "candidate_ids"}
    return type(query), fields, given if given is None else [(type(one), one) for one in given]


def check(body: bytes) -> None:
    for parse in (parse_score, parse_rank):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parsing, "split_candidates", lambda body: None)
            expected = outcome(parse, body)
        assert outcome(parse, body) == expected


@given(st.lists(PLAIN, min_size=1, max_size=60), st.sampled_from(OTHERS), st.sampled_from([None, 0, 3]), st.booleans())
def test_plain_candidates_are_those_of_a_whole_parse(
    ids: list[Any], other: dict[str, Any], indent: int | None, are_first: bool
) -> None:
    candidates = {"candidate_ids": ids}
    content = candidates | other if are_first else other | candidates
    check(json.dumps(content, indent=indent).encode())


@given(st.lists(ANY, max_size=9), st.sampled_from(OTHERS), st.booleans())
def test_other_candidates_are_those_of_a_whole_parse(ids: list[Any], other: dict[str, Any], is_ascii: bool) -> None:
    check(json.dumps(other | {"candidate_ids": ids}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass"))


@given(st.lists(PLAIN, min_size=1, max_size=9), st.sampled_from(OTHERS), st.data())
def test_a_damaged_body_is_right_or_wrong_as_it_is_for_a_whole_parse(
    ids: list[Any], other: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(json.dumps(other | {"candidate_ids": ids}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | MARKS)
    check(bytes(body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id":1,"candidate_ids":["a"],"candidate_ids":["b"]}',
        b'{"user_id":1,"candidate_ids":["a"],"candidate\\u005fids":["b"]}',
        b'{"user_id":1,"candidate_ids":["a"],"candidate\\u005fids":null}',
        b'{"user_id":1,"candidate_ids":["a"],"candidate_ids":null}',
        b'{"user_id":1,"candidate_ids":["a"]} ',
        b'{"user_id":1,"candidate_ids":["a"]}}',
        b'{"user_id":1,"candidate_ids":["a"]',
        b'{"user_id":1,"candidate_ids":["a",]}',
        b'{"user_id":1,"candidate_ids":[-0, 00, 1]}',
        b'{"user_id":1,"candidate_ids":[1.0]}',
        b'{"user_id":1,"candidate_ids":["a" "b"]}',
        b'{"user_id":1,"candidate_ids" ["a"]}',
        b'{"user_id":1 "candidate_ids":["a"]}',
        b'["candidate_ids":["a"]]',
        b'"candidate_ids":["a"]',
        b'"candidate_ids"',
        b'{"user_id":1,"candidate_ids":',
        b'{"user_id":1,"candidate_ids":["\xff"]}',
    ],
)  # fmt: skip
def test_a_body_that_could_be_misread_is_not(body: bytes) -> None:
    check(body)


@given(st.lists(PLAIN, min_size=1, max_size=60))
@example(["x" * 8, "y" * 7, 7, -7, 0, ""])
def test_what_is_looked_up_is_the_canonical_form_of_each_id(ids: list[Any]) -> None:
    split = split_candidates(json.dumps({"user_id": 1, "candidate_ids": ids}).encode())
    assert split is not None
    rest, joined = split
    assert json.loads(rest) == {"user_id": 1, "candidate_ids": None}
    assert joined.joined.split(b"\0") == encode_ids(joined) == encode_ids(ids)
    assert len(joined) == len(ids)
    assert list(joined) == ids == joined[:]
    assert joined[-1] == ids[-1]


def test_objects_are_made_when_one_is_asked_for_and_once() -> None:
    made: list[Sequence[Any]] = []

    def load() -> list[Any]:
        made.append(["a", 1])
        return ["a", 1]

    joined = JoinedIds(b"a\x001", 2, load)
    assert len(joined) == 2
    assert encode_ids(joined) == [b"a", b"1"]
    assert not made
    assert (joined[1], list(joined), "a" in joined, made) == (1, ["a", 1], True, [["a", 1]])


def test_short_bodies_are_left_to_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert split_candidates(b'{"user_id":1,"candidate_ids":["a"]}') is None
    assert split_candidates(json.dumps({"user_id": 1, "candidate_ids": ["item"] * 500}).encode()) is not None
