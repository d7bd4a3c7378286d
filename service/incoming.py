"""What ``/v1/score`` and ``/v1/rank`` do with a request before they score it: body, query, deadline, priority."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from service.body import read_body
from service.budget import ENVOY_HEADER, Deadline, deadline_of
from service.context import context_of
from service.costs import OtherWork
from service.loaded import LoadedRelease
from service.metrics import Queued
from service.open_inference import InferQuery
from service.parsing import RankQuery, ScoreQuery
from service.settings import Settings
from service.state import state_of
from service.tickets import Demand

PRIORITY_HEADER = b"x-ranktower-priority"

Query = TypeVar("Query", ScoreQuery, InferQuery, RankQuery)


async def read_query(request: Request, parse: Callable[[bytes, Settings], Query]) -> tuple[Query, Deadline]:
    """The validated query and how long it may take; raises as ``read_body`` and ``parse`` do."""
    state, context = state_of(request), context_of(request)
    body = await read_body(request, state.settings.limits)
    context.stages.append(("queue", context.arrival, time.perf_counter()))
    with context.stage("parse", state.metrics):
        query = parse(body, state.settings)
    header = context.header(ENVOY_HEADER)
    budget = state.settings.budget
    deadline = deadline_of(context.arrival, budget_ms=query.budget_ms, header=header, settings=budget)
    context.budget_s = deadline.at - context.arrival + budget.reserve_ms / 1000.0
    return query, deadline


def demand_of(request: Request, query: Query, deadline: Deadline, release: LoadedRelease, endpoint: Queued) -> Demand:
    """What the request asks of ``Turns``, for ``release`` to score it; its trace and its log line say so too. Of the
    priority's header only ``low`` is known, and any other value passed over."""
    context, costs, waits = context_of(request), release.costs, release.store.waits
    given = query.candidate_ids
    num_candidates = query.num_candidates if given is None else len(given)
    context.release, context.num_candidates = release.release, num_candidates
    before: dict[OtherWork, int] = {} if waits else {"find": num_candidates}
    if given is None:
        before["retrieve"] = num_candidates
    if query.item_features:
        before["tower"] = len(query.item_features)
    is_low = context.header(PRIORITY_HEADER).strip().lower() == "low"
    demand = Demand(
        num_candidates,
        deadline,
        costs,
        before,
        after={"ranking": query.top_k or num_candidates}
        if isinstance(query, RankQuery)
        else {"answer": num_candidates},
        fetch_s=costs.line("fetch").seconds(num_candidates) if waits else 0.0,
        endpoint=endpoint,
        is_low=is_low or (isinstance(query, InferQuery) and query.is_low),
        is_gone=context.is_gone,
        read_at=context.read_at,
    )
    context.priority = demand.priority
    return demand
