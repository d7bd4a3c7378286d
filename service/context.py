"""What the service knows of one request besides its body: id, arrival, outcome. An ASGI middleware around the app."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics

# What a header may bring into logs and answers: bounded, printable, nothing that a log reader could take for markup.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestContext:
    """One request from arrival to answer."""

    __slots__ = ("arrival", "headers", "is_gone", "outcome", "read_at", "read_s", "request_id")

    def __init__(self, headers: Mapping[bytes, bytes], state: Mapping[str, Any]) -> None:
        """``state`` of the scope: there is what ``service.protocol`` knows of the request."""
        self.headers = headers
        """By lower-case names; of several of one name the first. Starlette's go through all at each look."""
        self.read_at: float = state.get("read_at") or time.perf_counter()
        """When the server read it, on the ``time.perf_counter`` clock."""
        self.arrival: float = state.get("arrival", self.read_at)
        """When it may have come; from here on its budget counts."""
        self.is_gone: Callable[[], bool] = state.get("is_gone", _is_here)
        """Whether the client has left."""
        self.read_s = 0.0
        """Seconds from arrival until the body had been read."""
        self.request_id = _request_id(headers)
        self.outcome = "ok"

    def header(self, name: bytes) -> str:
        """The value of a header, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def elapsed_ms(self) -> float:
        """Milliseconds since arrival."""
        return (time.perf_counter() - self.arrival) * 1000.0


def context_of(request: Request) -> RequestContext:
    """The context that the middleware put into the request's scope."""
    context: RequestContext = request.scope["state"]["context"]
    return context


class ContextMiddleware:
    """Gives each request its context, answers with ``x-request-id``, and measures the known endpoints."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: Mapping[str, str]) -> None:
        """``endpoints`` maps the measured paths to their names in the metrics."""
        self._app = app
        self._metrics = metrics
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        context = RequestContext(dict(reversed(scope["headers"])), state)
        state["context"] = context
        header = (b"x-request-id", context.request_id.encode("ascii"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        completed = False
        try:
            await self._app(scope, receive, send_with_id)
            completed = True
        finally:
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                outcome = context.outcome if completed else "internal_error"
                self._metrics.observe_request(endpoint, outcome, time.perf_counter() - context.arrival)


def _is_here() -> bool:
    return False


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return uuid.uuid4().hex
