"""What the routes share: one object an application, reached through the request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.draining import Drain
from service.metrics import Metrics
from service.releases import Releases
from service.settings import Settings
from service.shadow import ShadowScorer
from service.tracing import Tracing
from service.turns import Turns


@dataclass(frozen=True)
class ServiceState:
    """What one application has one of."""

    settings: Settings
    metrics: Metrics
    releases: Releases
    turns: Turns
    shadow: ShadowScorer
    drain: Drain
    tracing: Tracing | None


def state_of(request: Request) -> ServiceState:
    """The state of the application that serves ``request``."""
    state: ServiceState = request.app.state.service
    return state
