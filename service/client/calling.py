"""What both clients are made with, and what all calls of one client share."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

import httpx

from ranktower import __version__
from service.client.exchange import Exchange
from service.client.options import ClientOptions, given
from service.client.requests import Call
from service.client.retries import Retries, RetryBudget

T = TypeVar("T")

_DEADLINE_MS = 1000.0
_MAX_CONNECTIONS = 100


class Caller:
    """Begins the calls of one client; their retries come out of one budget."""

    def __init__(self, url: str, options: ClientOptions) -> None:
        """``http_options`` are to make the client of httpx with."""
        found = given(options, ClientOptions)
        self._deadline_ms = found.get("deadline_ms", _DEADLINE_MS)
        self._retries = found.get("retries", Retries())
        self._budget = RetryBudget(self._retries)
        headers = {"user-agent": f"ranktower-client/{__version__}"}
        if "api_key" in found:
            headers["x-api-key"] = found["api_key"]
        self.http_options: dict[str, Any] = {
            "base_url": _address(url),
            "headers": headers,
            "verify": found.get("ssl_context", True),
            "limits": httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
        }

    def begin(self, call: Call[T]) -> Exchange[T]:
        """The exchange of one call, whose time runs."""
        return Exchange(call, deadline_ms=self._deadline_ms, retries=self._retries, budget=self._budget)


def _address(url: str) -> httpx.URL:
    with suppress(httpx.InvalidURL):
        address = httpx.URL(url)
        if address.scheme in {"http", "https"} and address.host:
            return address
    raise ValueError("url: must begin with http:// or https:// and name a host")  # not shown: a password may be in it
