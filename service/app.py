"""The application: its parts, its routes, and what lies around them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ranktower import __version__
from service.auth import PROTECTED, ApiKeyMiddleware
from service.context import ContextMiddleware, Endpoint
from service.direct import DirectRoutes
from service.documentation import document_keys
from service.door import Door
from service.draining import Drain
from service.errors import ServiceError, on_http_exception, on_service_error, on_unexpected
from service.lifespan import lifespan_of
from service.metrics import Metrics
from service.process_metrics import ProcessMetrics
from service.releases import Releases
from service.request_log import RequestLog
from service.routes import console, docs, explain, inference, metrics, probes, rank, release, score
from service.security_headers import SecurityHeaders
from service.settings import SHARED_FOLDER_ENV, Settings
from service.shadow import ShadowScorer
from service.shadow_metrics import ShadowMetrics
from service.state import ServiceState
from service.tracing import Tracing, tracing_is_asked_for
from service.turns import Turns

_ENDPOINTS = {f"/v1/{name}": Endpoint(name, f"/v1/{name}") for name in ("score", "rank", "explain", "release")}
_INFER = Endpoint("infer", "/v2/models/{model}/infer")
_INFER_VERSION = Endpoint("infer", "/v2/models/{model}/versions/{version}/infer")
_INFER_PATH = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the API keys that are asked for before it sees a request."""
        is_new = self.openapi_schema is None
        document = super().openapi()
        if is_new:
            document_keys(document, PROTECTED)
        return document


def create_app(settings: Settings) -> FastAPI:
    """The routes alone, as ``docs/openapi.json`` documents them."""
    state, folder = _create_state(settings), os.environ.get(SHARED_FOLDER_ENV)
    door = Door(None if folder is None else Path(folder), lambda: state.releases.is_serving)
    app = _Application(
        # It would trace every request a second time, where something in the process sets a provider for all; its log
        # records hold the texts of exceptions.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        title="RankTower",
        version=__version__,
        description="Scores the candidates of the pre-ranking stage. Every error has one body: error, error_type,"
        " request_id.",
        lifespan=lifespan_of(state, ProcessMetrics(state.metrics.registry), door),
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


def _create_state(settings: Settings) -> ServiceState:
    service_metrics = Metrics()
    releases, turns = Releases(settings, service_metrics), Turns(settings.overload, service_metrics)
    shadow = ShadowScorer(releases, turns, ShadowMetrics(service_metrics.registry))
    tracing = Tracing() if tracing_is_asked_for(os.environ) else None
    drain = Drain(settings.http.drain_delay_s)
    return ServiceState(settings, service_metrics, releases, turns, shadow, drain, tracing)


def endpoint_of(path: str) -> Endpoint | None:
    """The endpoint with a duration in the metrics at a path; the others would only drown these in probes."""
    endpoint = _ENDPOINTS.get(path)
    if endpoint is None and (found := _INFER_PATH.fullmatch(path)):
        endpoint = _INFER_VERSION if found[1] else _INFER
    return endpoint


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
    return ContextMiddleware(SecurityHeaders(stack), state.metrics, endpoint_of, observers)
