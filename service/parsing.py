"""A request's JSON to a validated query. No model per element: a thousand ids cost tens of microseconds.

Whether an id can exist at all (its length, a NUL in it) is not asked here: nothing is stored under one that cannot, so
it is missing like any other unknown id and does not cost the other candidates their scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.errors import MalformedError, TooManyCandidatesError
from service.settings import Settings

Id = str | int
DEFAULT_NUM_CANDIDATES = 1000

_SCORE_FIELDS = frozenset({"user_id", "candidate_ids", "budget_ms", "user_features"})
_RANK_FIELDS = _SCORE_FIELDS | {"top_k", "num_candidates"}


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Body of ``POST /v1/score``."""

    user_id: Id
    candidate_ids: list[Id]
    budget_ms: float | None
    user_features: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RankQuery:
    """Body of ``POST /v1/rank``. Without ``candidate_ids``, ``num_candidates`` are retrieved."""

    user_id: Id
    candidate_ids: list[Id] | None
    num_candidates: int
    top_k: int | None
    budget_ms: float | None
    user_features: dict[str, Any] | None


def parse_score(body: bytes, settings: Settings) -> ScoreQuery:
    """The query in ``body``.

    Raises:
        MalformedError: not JSON, an unknown or absent field, a wrong type or value; names the field.
        TooManyCandidatesError: more than ``limits.max_candidates``.
    """
    content = _load(body, _SCORE_FIELDS)
    return ScoreQuery(
        user_id=_user_id(content),
        candidate_ids=_candidates(_required(content, "candidate_ids"), settings.limits.max_candidates),
        budget_ms=_budget(content.get("budget_ms"), settings.budget.max_ms),
        user_features=_features(content.get("user_features")),
    )


def parse_rank(body: bytes, settings: Settings) -> RankQuery:
    """As ``parse_score``, for ``POST /v1/rank``."""
    content = _load(body, _RANK_FIELDS)
    limit = settings.limits.max_candidates
    candidates = content.get("candidate_ids")
    num_candidates = _count(content, "num_candidates", limit)
    if candidates is not None and num_candidates is not None:
        raise MalformedError("num_candidates: says how many to retrieve, so it cannot stand beside candidate_ids")
    return RankQuery(
        user_id=_user_id(content),
        candidate_ids=None if candidates is None else _candidates(candidates, limit),
        num_candidates=min(DEFAULT_NUM_CANDIDATES, limit) if num_candidates is None else num_candidates,
        top_k=_count(content, "top_k", limit),
        budget_ms=_budget(content.get("budget_ms"), settings.budget.max_ms),
        user_features=_features(content.get("user_features")),
    )


def _load(body: bytes, fields: frozenset[str]) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"the body is not JSON in UTF-8 (line {error.lineno}, column {error.colno})") from None
    if type(content) is not dict:
        raise MalformedError(f"the body must be a JSON object, not {_kind(content)}")
    unknown = content.keys() - fields
    if unknown:
        raise MalformedError(f"{_show(min(unknown))}: unknown field; known are {', '.join(sorted(fields))}")
    return content


def _required(content: Mapping[str, Any], field: str) -> Any:
    if field not in content:
        raise MalformedError(f"{field}: required")
    return content[field]


def _user_id(content: Mapping[str, Any]) -> Id:
    value = _required(content, "user_id")
    if type(value) is not str and type(value) is not int:
        raise MalformedError(f"user_id: {_no_id(value)}")
    return value


def _candidates(values: Any, limit: int) -> list[Id]:
    if type(values) is not list:
        raise MalformedError(f"candidate_ids: must be a list, not {_kind(values)}")
    if len(values) > limit:
        raise TooManyCandidatesError(f"candidate_ids: {len(values)} candidates, at most {limit} are accepted")
    kinds = set(map(type, values))
    if not kinds <= {str, int}:
        index = next(i for i, value in enumerate(values) if type(value) not in (str, int))
        raise MalformedError(f"candidate_ids[{index}]: {_no_id(values[index])}")
    return values


def _no_id(value: Any) -> str:
    # An integer of more bits is a float by the time it is seen here.
    return f"must be a string or an integer (of at most 64 bits), not {_kind(value)}"


def _budget(value: Any, max_ms: float) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value <= max_ms:
        raise MalformedError(f"budget_ms: must be a number above 0 and at most {max_ms:g}, got {_show(value)}")
    return float(value)


def _count(content: Mapping[str, Any], field: str, limit: int) -> int | None:
    value = content.get(field)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= limit:
        raise MalformedError(f"{field}: must be an integer from 1 to {limit}, got {_show(value)}")
    return value


def _features(value: Any) -> dict[str, Any] | None:
    if value is not None and type(value) is not dict:
        raise MalformedError(f"user_features: must be an object, not {_kind(value)}")
    return value


_KINDS = {bool: "a boolean", float: "a float", type(None): "null", list: "a list", dict: "an object", str: "a string"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an integer")


def _show(value: Any) -> str:
    text = orjson.dumps(value).decode("utf-8") if not isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
