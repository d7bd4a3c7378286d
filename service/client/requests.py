"""What is asked: the endpoints as calls, in one place for both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
from service.client.options import CallOptions, ExplainOptions, Id, RankOptions, ScoreOptions, given

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One question to the service."""

    path: str
    read: Callable[[Any], T]
    """The answer's JSON to what the call returns."""
    options: Mapping[str, Any]
    """Those of ``CallOptions`` that are given."""
    body: dict[str, Any] | None = None
    """Without its budget; None for a GET."""
    is_retried: bool = True


def score_call(user_id: Id, candidate_ids: Iterable[Id], options: ScoreOptions) -> Call[Scores]:
    """``POST /v1/score``."""
    body = {"user_id": user_id, "candidate_ids": _listed(candidate_ids)}
    return _post("/v1/score", read_scores, body, given(options, ScoreOptions))


def rank_call(user_id: Id, options: RankOptions) -> Call[Ranking]:
    """``POST /v1/rank``."""
    found = given(options, RankOptions)
    if "candidate_ids" in found:
        found["candidate_ids"] = _listed(found["candidate_ids"])
    return _post("/v1/rank", read_ranking, {"user_id": user_id}, found)


def explain_call(user_id: Id, candidate_ids: Iterable[Id], options: ExplainOptions) -> Call[Explanations]:
    """``POST /v1/explain``."""
    body = {"user_id": user_id, "candidate_ids": _listed(candidate_ids)}
    return _post("/v1/explain", read_explanations, body, given(options, ExplainOptions))


def release_call(options: CallOptions) -> Call[Release]:
    """``GET /v1/release``."""
    return Call("/v1/release", read_release, given(options, CallOptions))


def ready_call(options: CallOptions) -> Call[bool]:
    """``GET /v2/health/ready``, which says what ``/readyz`` says and which proxies pass on."""
    return Call("/v2/health/ready", lambda _: True, given(options, CallOptions), is_retried=False)


def _post(path: str, read: Callable[[Any], T], question: dict[str, Any], found: dict[str, Any]) -> Call[T]:
    """The options that are not of the call itself are fields of the body."""
    options = {name: found.pop(name) for name in CallOptions.__optional_keys__ & found.keys()}
    return Call(path, read, options, question | found)


def _listed(ids: Any) -> list[Any]:
    """An array of NumPy makes Python's numbers itself, many times faster than one by one."""
    found: list[Any] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return found
