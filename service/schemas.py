"""The JSON of requests and answers, for the OpenAPI document. Requests are read by ``service.parsing``, not here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[
    str | int,
    Field(description='A string, or an integer of at most 64 bits; 12 and "12" are the same id.', examples=["12", 12]),
]
Budget = Annotated[
    float | None,
    Field(
        gt=0,
        le=60_000,
        description="Milliseconds the request may take, counted from its arrival. The smaller of this and the header"
        " x-envoy-expected-rq-timeout-ms holds.",
    ),
]
Features = Annotated[
    dict[str, Any] | None,
    Field(
        description="Feature values of the user, by the names of the feature specification. Used when the user has no"
        " stored row; a stored row wins.",
    ),
]
Candidates = Annotated[list[Id], Field(max_length=10_000, description="Duplicates are scored one by one.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: Id
    budget_ms: Budget = None
    user_features: Features = None


class ScoreRequest(_Request):
    """Body of POST /v1/score."""

    candidate_ids: Candidates


class RankRequest(_Request):
    """Body of POST /v1/rank."""

    candidate_ids: Candidates | None = Field(
        default=None, description="Left out, num_candidates items are retrieved from the release's index."
    )
    num_candidates: int | None = Field(
        default=None, ge=1, le=10_000, description="How many to retrieve; 1000 by default. Not beside candidate_ids."
    )
    top_k: int | None = Field(default=None, ge=1, le=10_000, description="How many to answer; all by default.")


class Degraded(BaseModel):
    """How far an answer is below full scoring."""

    level: str
    reason: str
    expected_ndcg: float | None
    expected_recall: float | None


class _Answer(BaseModel):
    request_id: str
    release: str = Field(description="The one release that every score of this answer comes from.")
    user: Literal["PRESENT", "COMPUTED", "FALLBACK"] = Field(
        description="PRESENT: the user's stored row. COMPUTED: from user_features. FALLBACK: the fallback user."
    )
    missing: list[int] = Field(description="Indexes of the candidates that have no score, ascending.")
    degraded: Degraded | None
    took_ms: float


class ScoreResponse(_Answer):
    """Answer of POST /v1/score."""

    scores: list[float | None] = Field(description="In the order of candidate_ids; null where there is none.")


class RankedItem(BaseModel):
    """One candidate of a ranking."""

    id: str | int = Field(description="As the request gave it; a string where it was retrieved.")
    score: float
    rank: int = Field(ge=1)


class RankResponse(_Answer):
    """Answer of POST /v1/rank."""

    items: list[RankedItem] = Field(description="Best first; equal scores in the order of the candidates.")


class Refused(BaseModel):
    """A promoted release that is not served."""

    release: str | None
    reason: str


class ReleaseResponse(BaseModel):
    """Answer of GET /v1/release."""

    model: str
    release: str
    created: str
    format_version: int
    shape: dict[str, int]
    row_dtype: str
    item_rows: str
    tau: float
    num_users: int
    num_items: int
    training_run_id: str
    data_id: str
    offline_metrics: dict[str, Any]
    parity: dict[str, float]
    ladder: list[dict[str, Any]]
    refused: Refused | None = Field(description="The promoted release, where it is not the one served, and why.")


class ReadyResponse(BaseModel):
    """Answer of GET /readyz."""

    status: Literal["ready"]
    release: str
    refused: Refused | None


class LiveResponse(BaseModel):
    """Answer of GET /livez."""

    status: Literal["alive"]


class ErrorBody(BaseModel):
    """Every answer other than 200."""

    error: str
    error_type: str
    request_id: str
