"""Reading a body: what comes out, and that no id costs a call of its own."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedError, TooManyCandidatesError
from service.parsing import MAX_EXPLAINED, RankQuery, ScoreQuery, parse_explain, parse_rank, parse_score
from service.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "release": {"registry": "/r", "model": "m"},
        "limits": {"max_candidates": 500, "max_item_features": 3},
        "budget": {"max_ms": 100},
    }
)
FIELDS = (
    "user_id", "candidate_ids", "budget_ms", "user_features", "item_features", "freshness", "top_k", "num_candidates",
)  # fmt: skip
ids = st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"])))


@given(st.builds(dict, user_id=ids, candidate_ids=st.lists(ids)))
def test_every_list_of_ids_comes_out_as_it_went_in(body: dict[str, Any]) -> None:
    query = parse_score(json.dumps(body).encode(), SETTINGS)
    assert query == ScoreQuery(user_id=body["user_id"], candidate_ids=body["candidate_ids"])
    assert [type(one) for one in query.candidate_ids] == [type(one) for one in body["candidate_ids"]]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_whatever_is_sent_is_parsed_or_malformed(value: Any) -> None:
    for field in FIELDS:
        body = json.dumps({"user_id": 1, "candidate_ids": [1], field: value}).encode()
        for parse in (parse_score, parse_rank, parse_explain):
            with contextlib.suppress(MalformedError):
                parse(body, SETTINGS)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_request_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_score(body, SETTINGS)


def test_rank_defaults() -> None:
    assert parse_rank(b'{"user_id": "a"}', SETTINGS) == RankQuery(user_id="a", num_candidates=500)
    body = b"""{"user_id": "a", "candidate_ids": [], "top_k": 500, "budget_ms": 100, "user_features": {"x": null},
                "item_features": {"12": {"y": 1}}, "freshness": true}"""
    assert parse_rank(body, SETTINGS) == RankQuery(
        user_id="a",
        candidate_ids=[],
        num_candidates=500,
        top_k=500,
        budget_ms=100.0,
        user_features={"x": None},
        item_features={"12": {"y": 1}},
        freshness=True,
    )


def test_explain_takes_few_candidates() -> None:
    def parse(count: int) -> ScoreQuery:
        return parse_explain(json.dumps({"user_id": 1, "candidate_ids": [5] * count}).encode(), SETTINGS)

    assert parse(MAX_EXPLAINED) == ScoreQuery(user_id=1, candidate_ids=[5] * 32)
    with pytest.raises(TooManyCandidatesError, match="33 candidates, at most 32 are accepted"):
        parse(33)
    with pytest.raises(MalformedError, match="candidate_ids: must hold 1 to 32 ids, got none"):
        parse(0)


@pytest.mark.parametrize("parse", [parse_score, parse_rank])
@pytest.mark.parametrize(("value", "asked"), [(True, True), (False, False), (None, False)])
def test_freshness(parse: Callable[..., Any], value: object, asked: bool) -> None:
    body = json.dumps({"user_id": 1, "candidate_ids": [], "freshness": value}).encode()
    assert parse(body, SETTINGS).freshness is asked


@pytest.mark.parametrize("value", [1, 0, "true", [], {}])
def test_what_is_no_flag(value: object) -> None:
    body = json.dumps({"user_id": 1, "candidate_ids": [], "freshness": value}).encode()
    with pytest.raises(MalformedError, match=r"^freshness: must be true or false, got "):
        parse_score(body, SETTINGS)


@pytest.mark.parametrize("value", [1, 0.001, 99.999, 100])
def test_budgets(value: float) -> None:
    query = parse_score(json.dumps({"user_id": 1, "candidate_ids": [], "budget_ms": value}).encode(), SETTINGS)
    assert query.budget_ms == value


def test_the_limits_are_the_settings() -> None:
    parse_score(json.dumps({"user_id": 1, "candidate_ids": [1] * 500}).encode(), SETTINGS)
    with pytest.raises(TooManyCandidatesError, match="501 candidates, at most 500 are accepted"):
        parse_score(json.dumps({"user_id": 1, "candidate_ids": [1] * 501}).encode(), SETTINGS)
    with pytest.raises(MalformedError, match="item_features: of 4 items, at most 3 are accepted"):
        parse_score(
            json.dumps({"user_id": 1, "candidate_ids": [], "item_features": dict.fromkeys("abcd")}).encode(), SETTINGS
        )
    with pytest.raises(MalformedError, match="top_k: must be an integer from 1 to 500, got 501"):
        parse_rank(b'{"user_id": 1, "top_k": 501}', SETTINGS)
    with pytest.raises(MalformedError, match=r"budget_ms: must be a number above 0 and at most 100, got 100\.5"):
        parse_score(b'{"user_id": 1, "candidate_ids": [], "budget_ms": 100.5}', SETTINGS)


def test_too_many_is_said_before_what_they_are() -> None:
    with pytest.raises(TooManyCandidatesError):
        parse_score(json.dumps({"user_id": 1, "candidate_ids": [None] * 501}).encode(), SETTINGS)


def test_of_several_unknown_fields_one_is_named_always_the_same() -> None:
    with pytest.raises(MalformedError, match=r'^"a": unknown field; known are budget_ms, candidate_ids, fresh'):
        parse_score(b'{"b": 1, "a": 2}', SETTINGS)


def test_a_value_is_shown_but_not_all_of_it() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_score(json.dumps({"user_id": 1, "candidate_ids": [], "budget_ms": "9" * 10_000}).encode(), SETTINGS)
    assert caught.value.message.endswith("999...")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("kind", ["integers", "strings", "mixed"])
def test_no_function_of_python_is_called_for_each_id(kind: str) -> None:
    def num_calls(num_ids: int) -> int:
        numbers = range(num_ids)
        values: list[Any] = [str(n) if kind == "strings" or (kind == "mixed" and n % 2) else n for n in numbers]
        body = json.dumps({"user_id": 1, "candidate_ids": values}).encode()
        events: list[str] = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            parse_score(body, SETTINGS)
        finally:
            sys.setprofile(None)
        return len(events)

    assert num_calls(10) == num_calls(100)
    num_calls(500)  # what is done once is done, where candidates stay text
    assert num_calls(490) == num_calls(500)
