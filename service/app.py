"""The application: routes, error bodies, and the task that follows the release pointer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ranktower import __version__
from service.auth import ApiKeyMiddleware
from service.context import ContextMiddleware
from service.direct import DirectRoutes
from service.errors import ServiceError, on_http_exception, on_service_error, on_unexpected
from service.garbage import collect_garbage
from service.metrics import Metrics
from service.releases import Releases
from service.routes import docs, explain, metrics, probes, rank, release, score
from service.settings import Settings
from service.shadow import ShadowScorer
from service.shadow_metrics import ShadowMetrics
from service.state import ServiceState
from service.turns import Turns

# The endpoints with a duration in the metrics; the others would only drown them in probes.
ENDPOINTS = {"/v1/score": "score", "/v1/rank": "rank", "/v1/explain": "explain", "/v1/release": "release"}


def create_app(settings: Settings) -> FastAPI:
    """The routes alone, as ``docs/openapi.json`` documents them."""
    service_metrics = Metrics()
    releases, turns = Releases(settings, service_metrics), Turns(settings.overload, service_metrics)
    shadow = ShadowScorer(releases, turns, ShadowMetrics(service_metrics.registry))
    state = ServiceState(settings, service_metrics, releases, turns, shadow)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Turns]]:
        collector = asyncio.create_task(collect_garbage())
        state.releases.start()
        state.shadow.start()
        try:
            yield {"turns": turns}  # into the state of every request's scope, where service.protocol looks for it
        finally:
            collector.cancel()
            await state.shadow.stop()
            await state.releases.stop()

    app = FastAPI(
        title="RankTower",
        version=__version__,
        description="Scores the candidates of the pre-ranking stage. Every error has one body: error, error_type,"
        " request_id.",
        lifespan=lifespan,
        exception_handlers={
            ServiceError: on_service_error,
            HTTPException: on_http_exception,
            Exception: on_unexpected,
        },
        # FastAPI's own pages load their scripts from a CDN; service.routes.docs has one that does not.
        docs_url=None,
        redoc_url=None,
        # Names of the operations, which clients are generated from, are those of the endpoints.
        generate_unique_id_function=lambda route: route.name,
        # A path that differs by a slash is not the same path: a redirected POST loses its body in many clients.
        redirect_slashes=False,
    )
    app.state.service = state
    for module in (score, rank, explain, release, probes, metrics, docs):
        app.include_router(module.router)
    return app


def create_server(settings: Settings) -> ASGIApp:
    """The whole stack as a server runs it. The context lies outermost, so that a 500 has its request id too."""
    app = create_app(settings)
    state: ServiceState = app.state.service
    stack: ASGIApp = DirectRoutes(app, {("POST", "/v1/score"): score.score, ("POST", "/v1/rank"): rank.rank})
    if settings.auth.api_key is not None:
        stack = ApiKeyMiddleware(stack, settings.auth.api_key.get_secret_value())
    return ContextMiddleware(stack, state.metrics, ENDPOINTS)
