"""What is asked: the endpoints as calls, and the options they take, in one place for both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

from service.client.answers import (
    Explanations,
    Ranking,
    Release,
    Scores,
    read_explanations,
    read_ranking,
    read_release,
    read_scores,
)

Id = str | int
Features = Mapping[str, Any]
T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    deadline_ms: float
    """How long the call may take, retries included; the client's own without it."""
    request_id: str
    """1 to 128 of ``A-Z a-z 0-9 . _ : / + = @ -``; a random one without it. All attempts have the same."""
    traceparent: str
    """Of the caller's span (W3C Trace Context); passed on."""
    low_priority: bool
    """After all other requests, and the first to be refused."""


class QueryOptions(CallOptions, total=False):
    """What every call about a user takes; as in docs/api.md, like the fields below."""

    user_features: Features
    item_features: Mapping[str, Features]


class ExplainOptions(QueryOptions, total=False):
    """What ``explain`` takes besides user and candidates."""

    levels: bool


class ScoreOptions(QueryOptions, total=False):
    """What ``score`` takes besides user and candidates."""

    freshness: bool


class RankOptions(ScoreOptions, total=False):
    """What ``rank`` takes besides the user. Without ``candidate_ids``, ``num_candidates`` are retrieved."""

    candidate_ids: Iterable[Id]
    num_candidates: int
    top_k: int


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One question to the service."""

    path: str
    read: Callable[[Any], T]
    """The answer's JSON to what the call returns."""
    options: CallOptions
    body: dict[str, Any] | None = None
    """Without its budget; None for a GET."""
    is_retried: bool = True


def score_call(user_id: Id, candidate_ids: Iterable[Id], options: ScoreOptions) -> Call[Scores]:
    """``POST /v1/score``."""
    body = {"user_id": user_id, "candidate_ids": list(candidate_ids), **_fields(options)}
    return Call("/v1/score", read_scores, options, body)


def rank_call(user_id: Id, options: RankOptions) -> Call[Ranking]:
    """``POST /v1/rank``."""
    body = {"user_id": user_id, **_fields(options)}
    if "candidate_ids" in options:
        body["candidate_ids"] = list(options["candidate_ids"])
    return Call("/v1/rank", read_ranking, options, body)


def explain_call(user_id: Id, candidate_ids: Iterable[Id], options: ExplainOptions) -> Call[Explanations]:
    """``POST /v1/explain``."""
    body = {"user_id": user_id, "candidate_ids": list(candidate_ids), **_fields(options)}
    return Call("/v1/explain", read_explanations, options, body)


def release_call(options: CallOptions) -> Call[Release]:
    """``GET /v1/release``."""
    return Call("/v1/release", read_release, options)


def ready_call(options: CallOptions) -> Call[bool]:
    """``GET /readyz``."""
    return Call("/readyz", lambda _: True, options, is_retried=False)


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of the body."""
    return {name: value for name, value in options.items() if name not in CallOptions.__optional_keys__}
