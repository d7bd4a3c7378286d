"""What both clients are made with, and what all calls of one client share."""

from __future__ import annotations

import ssl
from typing import Any, TypedDict, TypeVar

import httpx

from ranktower import __version__
from service.client.exchange import Exchange
from service.client.requests import Call
from service.client.retries import Retries, RetryBudget

T = TypeVar("T")

_DEADLINE_MS = 1000.0
_MAX_CONNECTIONS = 100


class ClientOptions(TypedDict, total=False):
    """What a client takes besides the service's address."""

    api_key: str
    deadline_ms: float
    """Of calls that name none; 1000 by default."""
    retries: Retries
    ssl_context: ssl.SSLContext
    """For ``https`` with certificates of one's own."""


class Caller:
    """Begins the calls of one client; their retries come out of one budget."""

    def __init__(self, url: str, options: ClientOptions) -> None:
        """``http_options`` are to make the client of httpx with."""
        self._deadline_ms = options.get("deadline_ms", _DEADLINE_MS)
        self._retries = options.get("retries", Retries())
        self._budget = RetryBudget(self._retries)
        headers = {"user-agent": f"ranktower-client/{__version__}"}
        if "api_key" in options:
            headers["x-api-key"] = options["api_key"]
        self.http_options: dict[str, Any] = {
            "base_url": url,
            "headers": headers,
            "verify": options.get("ssl_context", True),
            "limits": httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
        }

    def begin(self, call: Call[T]) -> Exchange[T]:
        """The exchange of one call, whose time runs."""
        return Exchange(call, deadline_ms=self._deadline_ms, retries=self._retries, budget=self._budget)
