"""``POST /v1/score``: scores of the given candidates, in their order."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Answering, Scored
from service.context import context_of
from service.documentation import ERRORS, request_body
from service.incoming import demand_of, read_query
from service.outgoing import answer
from service.parsing import parse_score
from service.schemas import ScoreRequest, ScoreResponse
from service.state import state_of

router = APIRouter()


@router.post(
    "/v1/score",
    summary="Score candidates for a user",
    response_model=None,
    responses={200: {"model": ScoreResponse}, **ERRORS},
    openapi_extra=request_body(ScoreRequest, {"user_id": 12, "candidate_ids": [1, "2", 3], "budget_ms": 20}),
)
async def score(request: Request) -> Response:
    """Scores stand in the order of the candidates. A candidate without a stored row is scored from its `item_features`
    where given, else it gets null and its index in `missing`. An unknown user is scored from `user_features` where
    given, else with the release's fallback user."""
    state, context = state_of(request), context_of(request)
    query, deadline = await read_query(request, parse_score)
    with state.releases.of_user(query.user_id).hold() as release:
        demand = demand_of(request, query, deadline, release, "score")
        with state.turns.admit(demand) as ticket:
            scored = await Answering(query, release, ticket, context, state.metrics).score(query.candidate_ids)
            state.shadow.offer(release, query, scored)
            return answer(request, release, scored, lambda: _fields(scored))


def _fields(scored: Scored) -> dict[str, Any]:
    fields = {"scores": scored.scores, "missing": scored.missing}
    return fields if scored.ages_s is None else {**fields, "ages_s": scored.ages_s}
