"""The JSON of requests and answers, for the OpenAPI document. Requests are read by ``service.parsing``, not here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.native import Engine
from service.parsing import MAX_EXPLAINED

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
ItemFeatures = Annotated[
    dict[str, dict[str, Any]] | None,
    Field(
        max_length=256,
        description="Feature values of candidates by their ids, for those without a stored row; a stored row wins.",
    ),
]
Freshness = Annotated[bool | None, Field(description="Whether the answer is to say how old each candidate's row is.")]
Computed = Annotated[
    list[int] | None,
    Field(
        description="Indexes of the candidates that were computed from item_features, ascending; only where the request"
        " has item_features."
    ),
]
Candidates = Annotated[list[Id], Field(max_length=10_000, description="Duplicates are scored one by one.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: Id
    budget_ms: Budget = None
    user_features: Features = None
    item_features: ItemFeatures = None


class ScoreRequest(_Request):
    """Body of POST /v1/score."""

    candidate_ids: Candidates
    freshness: Freshness = None


class RankRequest(_Request):
    """Body of POST /v1/rank."""

    candidate_ids: Candidates | None = Field(
        default=None, description="Left out, num_candidates items are retrieved from the release's index."
    )
    num_candidates: int | None = Field(
        default=None, ge=1, le=10_000, description="How many to retrieve; 1000 by default. Not beside candidate_ids."
    )
    top_k: int | None = Field(default=None, ge=1, le=10_000, description="How many to answer; all by default.")
    freshness: Freshness = None


class ExplainRequest(_Request):
    """Body of POST /v1/explain."""

    candidate_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_EXPLAINED)]
    levels: bool | None = Field(
        default=None, description="Whether the answer is to have the scores of the ladder's lower levels too."
    )


class Degraded(BaseModel):
    """How far an answer is below full scoring."""

    level: Literal["full_best", "maxsim", "pooled"] = Field(
        description="full_best: the best of the candidates were scored in full. maxsim, pooled: how the others, or all,"
        " were scored."
    )
    reason: Literal["budget", "load", "overrun"] = Field(
        description="budget: the request's own was too small. load: others would have missed theirs. overrun: the work"
        " took longer than expected."
    )
    share: float = Field(
        ge=0,
        le=1,
        description="Part of the candidates that were scored in full. With maxsim and pooled it is above 0 where the"
        " work was cut short, or fewer were scored in full than any share that the release has measured.",
    )
    expected_ndcg: float = Field(
        description="What the release measured of this level: NDCG at the ladder's k where the first k of full scoring"
        " are the relevant items."
    )
    expected_recall: float = Field(description="As expected_ndcg: the part of full scoring's first k in the first k.")


class _Answer(BaseModel):
    request_id: str
    release: str = Field(description="The one release that every score of this answer comes from.")
    user: Literal["PRESENT", "COMPUTED", "FALLBACK"] = Field(
        description="PRESENT: the user's stored row. COMPUTED: from user_features. FALLBACK: the fallback user."
    )
    missing: list[int] = Field(description="Indexes of the candidates that have no score, ascending.")
    computed: Computed = None
    took_ms: float


class _ScoredAnswer(_Answer):
    degraded: Degraded | None


class ScoreResponse(_ScoredAnswer):
    """Answer of POST /v1/score."""

    scores: list[float | None] = Field(description="In the order of candidate_ids; null where there is none.")
    ages_s: list[float | None] | None = Field(
        default=None,
        description="Seconds since each candidate's row was computed, null without one; only where freshness is true.",
    )


class RankedItem(BaseModel):
    """One candidate of a ranking."""

    id: str | int = Field(description="As the request gave it; a string where it was retrieved.")
    score: float
    rank: int = Field(ge=1)
    age_s: float | None = Field(
        default=None, description="Seconds since the item's row was computed; only where freshness is true."
    )


class RankResponse(_ScoredAnswer):
    """Answer of POST /v1/rank."""

    items: list[RankedItem] = Field(description="Best first; equal scores in the order of the candidates.")


class Match(BaseModel):
    """What one user sub-space brings to a score."""

    item_subspace: int = Field(ge=0, description="The item sub-space with the best cosine, counted from 0.")
    cosine: float = Field(description="Of the two, after the attention.")
    contribution: float = Field(description="The cosine over the model's temperature.")


class LevelScores(BaseModel):
    """What the ladder's lower levels give one candidate, on the scale of full scoring."""

    maxsim: float | None
    pooled: float | None


class Explanation(BaseModel):
    """What the score of one candidate is made of."""

    id: str | int = Field(description="As the request gave it.")
    score: float
    matches: list[Match] = Field(
        description="One for each user sub-space, in their order; their contributions sum to the score."
    )
    user_attention: list[list[float]] = Field(
        description="Weights with which each user sub-space (row) attends to the item sub-spaces; a row sums to 1."
    )
    item_attention: list[list[float]] = Field(
        description="Weights with which each item sub-space (row) attends to the user sub-spaces; a row sums to 1."
    )
    levels: LevelScores | None = Field(
        default=None,
        description="Only where the request's levels is true; null where the release has no ladder.",
    )


class ExplainResponse(_Answer):
    """Answer of POST /v1/explain."""

    explanations: list[Explanation | None] = Field(
        description="In the order of candidate_ids; null where there is no score."
    )


class Refused(BaseModel):
    """A promoted release that is not served."""

    release: str | None
    reason: str


class TrialStatus(BaseModel):
    """A release beside the one served, as its canary or shadow."""

    model: str
    release: str
    share: float = Field(gt=0, le=1, description="Of the users (canary), of the answers (shadow).")
    serving: bool = Field(description="False while it is being loaded, or where it is refused.")
    refused: str | None = Field(description="Why it is not served; error_type of a 503 names the same reasons.")


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
    engine: Engine = Field(description="What scores pairs in full.")
    refused: Refused | None = Field(description="The promoted release, where it is not the one served, and why.")
    canary: TrialStatus | None = Field(description="Answers its share of the users.")
    shadow: TrialStatus | None = Field(description="Scores its share of the answers again, beside the requests.")


class ReadyResponse(BaseModel):
    """Answer of GET /readyz."""

    status: Literal["ready"]
    release: str
    refused: Refused | None
    canary: TrialStatus | None
    shadow: TrialStatus | None


class LiveResponse(BaseModel):
    """Answer of GET /livez."""

    status: Literal["alive"]


class ErrorBody(BaseModel):
    """Every answer other than 200."""

    error: str
    error_type: str
    request_id: str
