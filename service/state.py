"""What the routes share: one object an application, reached through the request."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from service.metrics import Metrics
from service.releases import Releases
from service.settings import Settings


@dataclass(frozen=True)
class ServiceState:
    """Settings, metrics and releases of one application."""

    settings: Settings
    metrics: Metrics
    releases: Releases


def state_of(request: Request) -> ServiceState:
    """The state of the application that serves ``request``."""
    state: ServiceState = request.app.state.service
    return state
