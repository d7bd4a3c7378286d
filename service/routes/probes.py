"""``/livez`` and ``/readyz`` for the orchestrator."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import DrainingError
from service.schemas import ErrorBody, LiveResponse, ReadyResponse
from service.state import state_of

router = APIRouter()


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process alive", response_model=None, responses={200: {"model": LiveResponse}})
async def livez() -> Response:
    """Touches nothing: answers as long as the event loop runs."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Is a release being served",
    response_model=None,
    responses={200: {"model": ReadyResponse}, 503: {"model": ErrorBody}},
)
async def readyz(request: Request) -> Response:
    """200 once a release is verified (but for its large files, which follow), warmed up and has reproduced its golden
    scores. A newer release that was refused is named, while the old one goes on being served, and so is a canary or
    shadow. 503 ``draining`` once the service is being stopped."""
    state = state_of(request)
    if state.drain.begun:
        raise DrainingError
    releases = state.releases
    answer = {"status": "ready", "release": releases.current().release, **releases.describe()}
    return Response(orjson.dumps(answer), media_type="application/json")
