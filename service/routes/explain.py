"""``POST /v1/explain``: what the scores of a few candidates are made of."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Answering
from service.context import context_of
from service.documentation import ERRORS, NOT_EXPLAINABLE, request_body
from service.explaining import explain as explain_pairs
from service.incoming import demand_of, read_query
from service.parsing import parse_explain
from service.schemas import ExplainRequest, ExplainResponse
from service.state import state_of

router = APIRouter()


@router.post(
    "/v1/explain",
    summary="Explain scores of a user's candidates",
    response_model=None,
    responses={200: {"model": ExplainResponse}, **ERRORS, **NOT_EXPLAINABLE},
    openapi_extra=request_body(ExplainRequest, {"user_id": 12, "candidate_ids": [1, "2"]}),
)
async def explain(request: Request) -> Response:
    """Attention weights of both branches, each user sub-space's best match and what it contributes. The contributions
    sum to the score, which is that of `/v1/score`. Users and candidates that are not stored are treated as there; a
    candidate without a score gets null and its index in `missing`."""
    state, context = state_of(request), context_of(request)
    query, deadline = await read_query(request, parse_explain)
    ids = query.candidate_ids
    with state.releases.of_user(query.user_id).hold() as release:
        demand = demand_of(request, query, deadline, release, "explain")
        with state.turns.admit(demand) as ticket:
            pairs = await Answering(query, release, ticket, context, state.metrics).pairs(ids)
            ladder = release.manifest.ladder if query.levels else None
            explanations = explain_pairs(release.scorer, pairs, ids, ladder)
            content = {
                "request_id": context.request_id,
                "release": release.release,
                "user": pairs.state,
                "explanations": explanations,
                "missing": [index for index, one in enumerate(explanations) if one is None],
                **({} if query.item_features is None else {"computed": pairs.computed}),
                "took_ms": round(context.elapsed_ms(), 3),
            }
            return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
