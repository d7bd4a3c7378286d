"""The application: routes, error bodies, and the task that follows the release pointer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ranktower import __version__
from service.auth import ApiKeyMiddleware
from service.context import ContextMiddleware
from service.direct import DirectRoutes
from service.draining import Drain
from service.errors import ServiceError, on_http_exception, on_service_error, on_unexpected
from service.garbage import collect_garbage
from service.metrics import Metrics
from service.process_metrics import ProcessMetrics
from service.releases import Releases
from service.request_log import RequestLog
from service.routes import console, docs, explain, inference, metrics, probes, rank, release, score
from service.security_headers import SecurityHeaders
from service.settings import Settings
from service.shadow import ShadowScorer
from service.shadow_metrics import ShadowMetrics
from service.state import ServiceState
from service.tracing import Tracing, tracing_is_asked_for
from service.turns import Turns

# The endpoints with a duration in the metrics; the others would only drown them in probes.
ENDPOINTS = {"/v1/score": "score", "/v1/rank": "rank", "/v1/explain": "explain", "/v1/release": "release"}


def create_app(settings: Settings) -> FastAPI:
    """The routes alone, as ``docs/openapi.json`` documents them."""
    service_metrics = Metrics()
    releases, turns = Releases(settings, service_metrics), Turns(settings.overload, service_metrics)
    shadow = ShadowScorer(releases, turns, ShadowMetrics(service_metrics.registry))
    process = ProcessMetrics(service_metrics.registry)
    tracing = Tracing() if tracing_is_asked_for(os.environ) else None
    drain = Drain(settings.http.drain_delay_s)
    state = ServiceState(settings, service_metrics, releases, turns, shadow, drain, tracing)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Turns | Drain]]:
        collector = asyncio.create_task(collect_garbage())
        if tracing is not None:
            await tracing.start()
        state.releases.start()
        state.shadow.start()
        process.start()
        drain.start()
        try:
            # Into the state of every request's scope, where service.protocol looks for them.
            yield {"turns": turns, "drain": drain}
        finally:
            drain.stop()
            collector.cancel()
            await process.stop()
            await state.shadow.stop()
            await state.releases.stop()
            if tracing is not None:
                tracing.stop()

    app = FastAPI(
        # It would trace every request a second time, where something in the process sets a provider for all; its log
        # records hold the texts of exceptions.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
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
    for module in (score, rank, explain, release, inference, probes, metrics, docs):
        app.include_router(module.router)
    if settings.console.enabled:
        app.include_router(console.router)
    return app


def create_server(settings: Settings) -> ASGIApp:
    """The whole stack as a server runs it. The context lies outermost, so that a 500 has its request id too."""
    app = create_app(settings)
    state: ServiceState = app.state.service
    infer_path = f"/v2/models/{settings.release.model}/infer"
    direct = {"/v1/score": score.score, "/v1/rank": rank.rank, infer_path: inference.infer}
    stack: ASGIApp = DirectRoutes(app, {("POST", path): endpoint for path, endpoint in direct.items()})
    if settings.auth.asks_for_keys:
        stack = ApiKeyMiddleware(stack, settings, state.metrics.registry)
    observers = [RequestLog(settings.log).observe]
    if state.tracing is not None:
        observers.insert(0, state.tracing.observe)  # the log's line names the trace
    return ContextMiddleware(SecurityHeaders(stack), state.metrics, {**ENDPOINTS, infer_path: "infer"}, observers)
