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
from service.loaded import LoadedRelease
from service.state import state_of


def answer(
    request: Request, release: LoadedRelease, scored: Scored, fields: Callable[[], Mapping[str, Any]]
) -> Response:
    """The JSON of ``scored``; ``fields`` makes those of the endpoint, ``scores`` or ``items`` among them."""
    began = time.perf_counter()
    own = fields()
    content = {
        "request_id": context_of(request).request_id,
        "release": release.release,
        "user": scored.user,
        **own,
        **({} if scored.computed is None else {"computed": scored.computed}),
        "degraded": scored.degraded,
        "took_ms": round(context_of(request).elapsed_ms(), 3),
    }
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)  # float32 as it is, and NaN as null
    took_s = time.perf_counter() - began
    state = state_of(request)
    state.metrics.observe_stage("serialize", took_s)
    state.metrics.answers[state.releases.role_of(release)].inc()
    if "items" in own:
        release.costs.line("ranking").learn(len(own["items"]), took_s)
    else:
        release.costs.line("answer").learn(len(scored.scores), took_s)
    return Response(body, media_type="application/json")
