"""``POST /v1/rank``: the best of the given candidates, or of retrieved ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Answering, Scored
from service.context import context_of
from service.documentation import ERRORS, request_body
from service.incoming import demand_of, read_query
from service.outgoing import answer
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
    given = query.candidate_ids
    with state.releases.of_user(query.user_id).hold() as release:
        demand = demand_of(request, query, deadline, release, "rank")
        with state.turns.admit(demand) as ticket:
            answering = Answering(query, release, ticket, context, state.metrics)
            if given is None:
                scored = await answering.retrieve_and_score(query.num_candidates)
            else:
                scored = await answering.score(given)
            state.shadow.offer(release, query, scored)
            # Indexes into a list that the client never had would say nothing.
            missing: Any = [] if given is None else scored.missing
            return answer(request, release, scored, lambda: {"items": _best(scored, query.top_k), "missing": missing})


def _best(scored: Scored, top_k: int | None) -> list[dict[str, Any]]:
    """Best first; NaN sorts last, and is cut off."""
    num_scored = len(scored.scores) - len(scored.missing)
    order = np.argsort(-scored.scores, kind="stable")[: num_scored if top_k is None else min(top_k, num_scored)]
    ids, scores = list(scored.candidate_ids), scored.scores[order]  # of ids left as text, all objects at once
    items: list[dict[str, Any]] = [
        {"id": ids[index], "score": score, "rank": place}
        for place, (index, score) in enumerate(zip(order.tolist(), scores, strict=True), start=1)
    ]
    if scored.ages_s is not None:
        for item, age_s in zip(items, scored.ages_s[order], strict=True):
            item["age_s"] = age_s
    return items
