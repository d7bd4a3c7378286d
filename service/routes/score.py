"""``POST /v1/score``: scores of the given candidates, in their order."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Answering
from service.context import context_of
from service.documentation import ERRORS, request_body
from service.incoming import read_query
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
    """Scores stand in the order of the candidates; a candidate without a stored row gets null and its index in
    `missing`. An unknown user is scored from `user_features` where given, else with the release's fallback user."""
    state, context = state_of(request), context_of(request)
    query, deadline = await read_query(request, parse_score)
    with state.releases.current().hold() as release:
        scored = await Answering(release, deadline, state.metrics).score(
            query.user_id, query.candidate_ids, query.user_features
        )
    with state.metrics.stage("serialize"):
        answer = {
            "request_id": context.request_id,
            "release": release.release,
            "user": scored.user,
            # orjson writes float32 arrays as they are, and NaN as null.
            "scores": scored.scores,
            "missing": scored.missing,
            "degraded": None,
            "took_ms": round(context.elapsed_ms(), 3),
        }
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")
