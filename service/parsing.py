"""A request's JSON to a validated query. No model per element: a thousand ids cost tens of microseconds.

Whether an id can exist at all (its length, a NUL in it) is not asked here: nothing is stored under one that cannot, so
it is missing like any other unknown id and does not cost the other candidates their scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ranktower.embedding_store.joined_ids import Id as Id  # as which the modules around know it
from ranktower.embedding_store.joined_ids import JoinedIds
from service.candidate_text import split_candidates
from service.errors import MalformedError, TooManyCandidatesError
from service.settings import Settings

Features = Mapping[str, Any]
DEFAULT_NUM_CANDIDATES = 1000

MAX_EXPLAINED = 32
"""Candidates of a ``POST /v1/explain``: each is answered with some fifty numbers, for a person to read."""

_FIELDS = frozenset({"user_id", "candidate_ids", "budget_ms", "user_features", "item_features"})
_SCORE_FIELDS = _FIELDS | {"freshness"}
_RANK_FIELDS = _SCORE_FIELDS | {"top_k", "num_candidates"}
_EXPLAIN_FIELDS = _FIELDS | {"levels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What the endpoints that score are all asked with."""

    user_id: Id
    budget_ms: float | None = None
    user_features: Features | None = None
    item_features: Mapping[str, Features] | None = None
    """By the canonical form of the item's id."""
    freshness: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuery(Query):
    """Body of ``POST /v1/score`` and ``POST /v1/explain``."""

    candidate_ids: Sequence[Id]
    levels: bool = False
    """Of ``POST /v1/explain`` alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankQuery(Query):
    """Body of ``POST /v1/rank``. Without ``candidate_ids``, ``num_candidates`` are retrieved."""

    candidate_ids: Sequence[Id] | None = None
    num_candidates: int = DEFAULT_NUM_CANDIDATES
    top_k: int | None = None


def parse_score(body: bytes, settings: Settings) -> ScoreQuery:
    """The query in ``body``.

    Raises:
        MalformedError: not JSON, an unknown or absent field, a wrong type or value; names the field.
        TooManyCandidatesError: more than ``limits.max_candidates``.
    """
    return _parse_score(_load_with_candidates(body, _SCORE_FIELDS), settings, settings.limits.max_candidates)


def parse_explain(body: bytes, settings: Settings) -> ScoreQuery:
    """As ``parse_score``, for ``POST /v1/explain``: 1 to ``MAX_EXPLAINED`` candidates."""
    query = _parse_score(load_object(body, _EXPLAIN_FIELDS), settings, MAX_EXPLAINED)
    if not query.candidate_ids:
        raise MalformedError(f"candidate_ids: must hold 1 to {MAX_EXPLAINED} ids, got none")
    return query


def _parse_score(content: Mapping[str, Any], settings: Settings, limit: int) -> ScoreQuery:
    common = _common(content, settings)
    candidates = _candidates(_required(content, "candidate_ids"), limit)
    return ScoreQuery(**common, candidate_ids=candidates, levels=_flag(content, "levels"))


def parse_rank(body: bytes, settings: Settings) -> RankQuery:
    """As ``parse_score``, for ``POST /v1/rank``."""
    content = _load_with_candidates(body, _RANK_FIELDS)
    limit = settings.limits.max_candidates
    candidates = content.get("candidate_ids")
    num_candidates = _count(content, "num_candidates", limit)
    if candidates is not None and num_candidates is not None:
        raise MalformedError("num_candidates: says how many to retrieve, so it cannot stand beside candidate_ids")
    common = _common(content, settings)
    if candidates is None and common["item_features"] is not None:
        raise MalformedError("item_features: are of candidates, so they cannot stand without candidate_ids")
    return RankQuery(
        **common,
        candidate_ids=None if candidates is None else _candidates(candidates, limit),
        num_candidates=min(DEFAULT_NUM_CANDIDATES, limit) if num_candidates is None else num_candidates,
        top_k=_count(content, "top_k", limit),
    )


def _common(content: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The fields of ``Query``."""
    return {
        "user_id": _user_id(content),
        "budget_ms": budget_of(content.get("budget_ms"), settings.budget.max_ms),
        "user_features": _features(content.get("user_features"), "user_features"),
        "item_features": _item_features(content.get("item_features"), settings.limits.max_item_features),
        "freshness": _flag(content, "freshness"),
    }


def load_object(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    """The JSON object in ``body``; MalformedError if it is none, or has another field than ``fields``."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not JSON in UTF-8 (line {error.lineno}, column {error.colno})") from None
    if type(content) is not dict:
        raise MalformedError(f"the body must be a JSON object, not {kind_of(content)}")
    unknown = content.keys() - fields
    if unknown:
        raise MalformedError(f"{shown(min(unknown))}: unknown field; known are {', '.join(sorted(fields))}")
    return content


def _load_with_candidates(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    """As ``load_object``; the candidates are ``JoinedIds`` where they can be."""
    split = split_candidates(body)
    if split is not None:
        rest, candidates = split
        try:
            content = load_object(rest, fields)
        except MalformedError:
            pass  # the whole body's error names places in the whole body
        else:
            if content.get("candidate_ids", candidates) is None:
                return content | {"candidate_ids": candidates}
    return load_object(body, fields)


def _required(content: Mapping[str, Any], field: str) -> Any:
    if field not in content:
        raise MalformedError(f"{field}: required")
    return content[field]


def _user_id(content: Mapping[str, Any]) -> Id:
    value = _required(content, "user_id")
    if type(value) is not str and type(value) is not int:
        raise MalformedError(f"user_id: {_no_id(value)}")
    return value


def _candidates(values: Any, limit: int) -> Sequence[Id]:
    if type(values) is not list and type(values) is not JoinedIds:
        raise MalformedError(f"candidate_ids: must be a list, not {kind_of(values)}")
    if len(values) > limit:
        raise TooManyCandidatesError(f"candidate_ids: {len(values)} candidates, at most {limit} are accepted")
    if type(values) is list and not set(map(type, values)) <= {str, int}:
        index = next(i for i, value in enumerate(values) if type(value) not in (str, int))
        raise MalformedError(f"candidate_ids[{index}]: {_no_id(values[index])}")
    return values


def _no_id(value: Any) -> str:
    # An integer of more bits is a float by the time it is seen here.
    return f"must be a string or an integer (of at most 64 bits), not {kind_of(value)}"


def budget_of(value: Any, max_ms: float) -> float | None:
    """A validated ``budget_ms``, None where the request has none; MalformedError unless 0 < value <= ``max_ms``."""
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value <= max_ms:
        raise MalformedError(f"budget_ms: must be a number above 0 and at most {max_ms:g}, got {shown(value)}")
    return float(value)


def _count(content: Mapping[str, Any], field: str, limit: int) -> int | None:
    value = content.get(field)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= limit:
        raise MalformedError(f"{field}: must be an integer from 1 to {limit}, got {shown(value)}")
    return value


def _flag(content: Mapping[str, Any], field: str) -> bool:
    value = content.get(field)
    if value is not None and type(value) is not bool:
        raise MalformedError(f"{field}: must be true or false, got {shown(value)}")
    return value is True


def _features(value: Any, field: str) -> Features | None:
    if value is not None and type(value) is not dict:
        raise MalformedError(f"{field}: must be an object, not {kind_of(value)}")
    return value


def _item_features(value: Any, limit: int) -> Mapping[str, Features] | None:
    of_each = _features(value, "item_features")
    if of_each is None:
        return None
    if len(of_each) > limit:
        raise MalformedError(f"item_features: of {len(of_each)} items, at most {limit} are accepted")
    for item, features in of_each.items():
        if type(features) is not dict:
            raise MalformedError(f"item_features[{shown(item)}]: must be an object, not {kind_of(features)}")
    return of_each


_KINDS = {bool: "a boolean", float: "a float", type(None): "null", list: "a list", dict: "an object", str: "a string"}


def kind_of(value: Any) -> str:
    """What a value from JSON is, for the text of an error."""
    return _KINDS.get(type(value), "an integer")


def shown(value: Any) -> str:
    """The value as JSON, cut off where it is long, for the text of an error."""
    try:
        text = orjson.dumps(value).decode("utf-8") if not isinstance(value, float) else repr(value)
    except TypeError:  # it reads what is nested more deeply than it writes
        return kind_of(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
