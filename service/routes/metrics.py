"""``GET /metrics`` for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from service.state import state_of

router = APIRouter()


@router.get(
    "/metrics",
    summary="Metrics of all workers",
    response_model=None,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus text, merged over the workers."""
    # In a thread: on the loop a scrape would delay whatever request comes meanwhile by all the time that it takes.
    text = await asyncio.to_thread(state_of(request).metrics.render)
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
