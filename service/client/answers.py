"""What calls return: frozen dataclasses with the fields of docs/api.md. Fields they do not know are passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

UserState = Literal["PRESENT", "COMPUTED", "FALLBACK"]
T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Degraded:
    """What was given up to answer in time."""

    level: str
    reason: str
    share: float
    expected_ndcg: float
    expected_recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    request_id: str
    release: str
    user: UserState
    missing: Sequence[int]
    """Indexes of the candidates without a score."""
    took_ms: float
    """Of the service; the way there and back is not in it."""
    computed: Sequence[int] | None = None
    """Indexes of the candidates computed from ``item_features``; None where none were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(_Answer):
    """Answer of ``score``."""

    scores: Sequence[float | None]
    """In the order of the candidates; None where there is none, never NaN."""
    degraded: Degraded | None
    ages_s: Sequence[float | None] | None = None
    """Seconds since each candidate's row was computed; None unless ``freshness`` was asked for."""

    def filled(self, value: float) -> list[float]:
        """The scores with ``value`` in place of None: ``-math.inf`` to sort them last, ``math.nan`` for an array."""
        return [value if score is None else score for score in self.scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedItem:
    """One candidate of a ranking."""

    id: str | int
    score: float
    rank: int
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(_Answer):
    """Answer of ``rank``."""

    items: Sequence[RankedItem]
    """Best first."""
    degraded: Degraded | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What one user sub-space brings to a score."""

    item_subspace: int
    cosine: float
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What the score of one candidate is made of."""

    id: str | int
    score: float
    matches: Sequence[Match]
    """One for each user sub-space; their contributions sum to the score."""
    user_attention: Sequence[Sequence[float]]
    """[Hu, Hi], each row sums to 1."""
    item_attention: Sequence[Sequence[float]]
    """[Hi, Hu], each row sums to 1."""
    levels: Mapping[str, float | None] | None = None
    """The scores of the ladder's lower levels, where asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations(_Answer):
    """Answer of ``explain``."""

    explanations: Sequence[Explanation | None]
    """In the order of the candidates; None where there is no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Answer of ``release``: what is being served."""

    model: str
    release: str
    created: str
    format_version: int
    shape: Mapping[str, int]
    row_dtype: str
    item_rows: str
    tau: float
    num_users: int
    num_items: int
    training_run_id: str
    data_id: str
    offline_metrics: Mapping[str, Any]
    parity: Mapping[str, float]
    ladder: Sequence[Mapping[str, Any]]
    engine: str
    """What scores pairs in full: "native" or "onnx"."""
    refused: Mapping[str, Any] | None
    canary: Mapping[str, Any] | None
    shadow: Mapping[str, Any] | None


# Each raises KeyError, TypeError or AttributeError where the content is no answer of the service.


def read_scores(content: Any) -> Scores:
    """From the JSON of ``/v1/score``."""
    return _picked(Scores, content, degraded=_degraded(content))


def read_ranking(content: Any) -> Ranking:
    """From the JSON of ``/v1/rank``."""
    items = [_picked(RankedItem, item) for item in content["items"]]
    return _picked(Ranking, content, items=items, degraded=_degraded(content))


def read_explanations(content: Any) -> Explanations:
    """From the JSON of ``/v1/explain``."""
    of_each = [
        one and _picked(Explanation, one, matches=[_picked(Match, match) for match in one["matches"]])
        for one in content["explanations"]
    ]
    return _picked(Explanations, content, explanations=of_each)


def read_release(content: Any) -> Release:
    """From the JSON of ``/v1/release``."""
    return _picked(Release, content)


def _degraded(content: Any) -> Degraded | None:
    return content["degraded"] and _picked(Degraded, content["degraded"])


def _picked(kind: type[T], content: Any, **read: Any) -> T:
    """A ``kind`` with those of its fields that ``content`` has, but for those that are ``read`` already."""
    known = {field.name: content[field.name] for field in fields(kind) if field.name in content}
    return kind(**{**known, **read})
