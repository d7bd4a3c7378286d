"""What the routes share: one object an application, reached through the request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.metrics import Metrics
from service.releases import Releases
from service.settings import Settings
from service.shadow import ShadowScorer
from service.turns import Turns


@dataclass(frozen=True)
class ServiceState:
    """Settings, metrics, releases and the queue of one application."""

    settings: Settings
    metrics: Metrics
    releases: Releases
    turns: Turns
    shadow: ShadowScorer


def state_of(request: Request) -> ServiceState:
    """The state of the application that serves ``request``."""
    state: ServiceState = request.app.state.service
    return state
