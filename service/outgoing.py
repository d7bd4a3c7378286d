"""The answer of an endpoint that scores: what all of them say, and what each says itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.answering import Scored
from service.context import context_of
from service.costs import OtherWork
from service.loaded import LoadedRelease
from service.state import state_of


def answer(
    request: Request, release: LoadedRelease, scored: Scored, fields: Callable[[], Mapping[str, Any]]
) -> Response:
    """The JSON of ``scored``; ``fields`` makes those of the endpoint, ``scores`` or ``items`` among them."""
    context = context_of(request)
    began = time.perf_counter()
    own = fields()
    content = {
        "request_id": context.request_id,
        "release": release.release,
        "user": scored.user,
        **own,
        **({} if scored.computed is None else {"computed": scored.computed}),
        "degraded": scored.degraded,
        "took_ms": round(context.elapsed_ms(), 3),
    }
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)  # float32 as it is, and NaN as null
    if "items" in own:
        count_answer(request, release, began, work="ranking", size=len(own["items"]))
    else:
        count_answer(request, release, began, work="answer", size=len(scored.scores))
    return Response(body, media_type="application/json")


def count_answer(request: Request, release: LoadedRelease, began: float, *, work: OtherWork, size: int) -> None:
    """Into the metrics with an answer of ``size`` scores or items, written since ``began``; its cost is learned."""
    state, context, ended = state_of(request), context_of(request), time.perf_counter()
    context.stages.append(("serialize", began, ended))
    state.metrics.observe_stage("serialize", ended - began)
    state.metrics.count_answer(state.releases.role_of(release), context.priority)
    release.costs.line(work).learn(size, ended - began)
