"""What ``/v1/score`` and ``/v1/rank`` do with a request before they score it: body, query, deadline, priority."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from service.body import read_body
from service.budget import ENVOY_HEADER, Deadline, deadline_of
from service.context import context_of
from service.costs import Costs
from service.parsing import RankQuery, ScoreQuery
from service.settings import Settings
from service.state import state_of
from service.turns import Demand

PRIORITY_HEADER = b"x-ranktower-priority"

Query = TypeVar("Query", ScoreQuery, RankQuery)


async def read_query(request: Request, parse: Callable[[bytes, Settings], Query]) -> tuple[Query, Deadline]:
    """The validated query and how long it may take; raises as ``read_body`` and ``parse`` do."""
    state, context = state_of(request), context_of(request)
    body = await read_body(request, state.settings.limits)
    context.read_s = time.perf_counter() - context.arrival
    with state.metrics.stage("parse"):
        query = parse(body, state.settings)
    header = context.header(ENVOY_HEADER)
    budget = state.settings.budget
    return query, deadline_of(context.arrival, budget_ms=query.budget_ms, header=header, settings=budget)


def demand_of(request: Request, num_candidates: int, deadline: Deadline, costs: Costs) -> Demand:
    """What the request asks of ``Turns``; ``costs`` of the release that scores it. Only the priority ``low`` is known,
    and any other value of the header passed over."""
    context = context_of(request)
    is_low = context.header(PRIORITY_HEADER).strip().lower() == "low"
    return Demand(num_candidates, deadline, costs, is_low, context.is_gone, context.read_at)
