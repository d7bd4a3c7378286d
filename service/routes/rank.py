"""``POST /v1/rank``: the best of the given candidates, or of retrieved ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Answering, Scored
from service.context import context_of
from service.documentation import ERRORS, request_body
from service.incoming import read_query
from service.parsing import parse_rank
from service.schemas import RankRequest, RankResponse
from service.state import state_of

router = APIRouter()


@router.post(
    "/v1/rank",
    summary="Rank candidates for a user",
    response_model=None,
    responses={200: {"model": RankResponse}, **ERRORS},
    openapi_extra=request_body(RankRequest, {"user_id": 12, "candidate_ids": [1, "2", 3], "top_k": 2}),
)
async def rank(request: Request) -> Response:
    """The candidates, best first. Without `candidate_ids`, the `num_candidates` items nearest to the user are retrieved
    from the release's index and ranked. Candidates without a score are left out; their indexes stand in `missing`."""
    state, context = state_of(request), context_of(request)
    query, deadline = await read_query(request, parse_rank)
    with state.releases.current().hold() as release:
        answering = Answering(release, deadline, state.metrics)
        if query.candidate_ids is None:
            scored = await answering.retrieve_and_score(query.user_id, query.num_candidates, query.user_features)
        else:
            scored = await answering.score(query.user_id, query.candidate_ids, query.user_features)
    with state.metrics.stage("serialize"):
        answer = {
            "request_id": context.request_id,
            "release": release.release,
            "user": scored.user,
            "items": _best(scored, query.top_k),
            # Indexes into a list that the client never had would say nothing.
            "missing": [] if query.candidate_ids is None else scored.missing,
            "degraded": None,
            "took_ms": round(context.elapsed_ms(), 3),
        }
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


def _best(scored: Scored, top_k: int | None) -> list[dict[str, Any]]:
    """Best first; NaN sorts last, and is cut off."""
    num_scored = len(scored.scores) - len(scored.missing)
    order = np.argsort(-scored.scores, kind="stable")[: num_scored if top_k is None else min(top_k, num_scored)]
    scores = scored.scores[order]
    return [
        {"id": scored.candidate_ids[index], "score": score, "rank": place}
        for place, (index, score) in enumerate(zip(order.tolist(), scores, strict=True), start=1)
    ]
