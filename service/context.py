"""What the service knows of one request besides its body: id, arrival, stages, outcome. An ASGI middleware around the
app."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics, Priority, Stage

# What a header may bring into logs and answers: bounded, printable, nothing that a log reader could take for markup.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class _StageTimer:
    """Four of these are made for each request; a generator as context manager takes three times as long."""

    __slots__ = ("_metrics", "_stage", "_stages", "_start")

    def __init__(self, stages: list[tuple[Stage, float, float]], stage: Stage, metrics: Metrics | None) -> None:
        self._stages, self._stage, self._metrics = stages, stage, metrics

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end = time.perf_counter()
        self._stages.append((self._stage, self._start, end))
        if self._metrics is not None and kind is None:
            self._metrics.observe_stage(self._stage, end - self._start)


class RequestContext:
    """One request from arrival to answer."""

    __slots__ = (
        "arrival", "budget_s", "degraded_reason", "headers", "is_gone", "level", "num_candidates", "num_missing",
        "outcome", "priority", "read_at", "release", "request_id", "stages", "status", "trace_id", "user",
    )  # fmt: skip

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
        self.request_id = _request_id(headers)
        self.trace_id: str | None = None
        """Of its span, where it is traced."""
        self.outcome = "ok"
        self.status: int | None = None
        """Of the answer, None before it begins."""
        self.stages: list[tuple[Stage, float, float]] = []
        """Each stage with its beginning and end, on the ``time.perf_counter`` clock; they come one after the other."""
        self.budget_s = math.inf
        """From arrival, infinite without one; known once the body has been read."""
        self.priority: Priority = "normal"
        """Of the two classes; known once the body has been read."""
        self.release: str | None = None
        """That scores it, None until one has been chosen; so are the following until they are known."""
        self.level: str | None = None
        """``full``, or the level of a degraded answer."""
        self.degraded_reason: str | None = None
        self.user: str | None = None
        """``PRESENT``, ``COMPUTED`` or ``FALLBACK``."""
        self.num_candidates: int | None = None
        self.num_missing: int | None = None

    def header(self, name: bytes) -> str:
        """The value of a header, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def stage(self, stage: Stage, metrics: Metrics | None = None) -> _StageTimer:
        """Time one stage, a ``with`` block; ``metrics`` count it unless it fails."""
        return _StageTimer(self.stages, stage, metrics)

    def seconds_by_stage(self) -> dict[Stage, float]:
        """Of the stages so far; one that came several times, with all of it."""
        seconds: dict[Stage, float] = {}
        for stage, start, end in self.stages:
            seconds[stage] = seconds.get(stage, 0.0) + end - start
        return seconds

    def elapsed_ms(self) -> float:
        """Milliseconds since arrival."""
        return (time.perf_counter() - self.arrival) * 1000.0


def context_of(request: Request) -> RequestContext:
    """The context that the middleware put into the request's scope."""
    context: RequestContext = request.scope["state"]["context"]
    return context


class Endpoint(NamedTuple):
    """An endpoint that is measured."""

    name: str
    """In the metrics."""
    route: str
    """Its path, with the names of parameters in place of what the caller gave."""


class Served(NamedTuple):
    """A request of a measured endpoint whose answer has been written."""

    context: RequestContext
    endpoint: Endpoint
    method: str
    ended: float
    """On the ``time.perf_counter`` clock."""


class ContextMiddleware:
    """Gives each request its context, answers with ``x-request-id``, and measures the known endpoints."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        endpoint_of: Callable[[str], Endpoint | None],
        observers: Sequence[Callable[[Served], None]] = (),
    ) -> None:
        """``endpoint_of`` finds the endpoint of a path, None for one that is not measured; ``observers`` are told of
        each request of the others."""
        self._app = app
        self._metrics = metrics
        self._endpoint_of = endpoint_of
        self._observers = observers

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
                context.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except BaseException as error:
            # What ``on_unexpected`` has logged and answered comes here too, and the server would log it once more.
            is_answered = context.outcome == "internal_error" and isinstance(error, Exception)
            context.outcome = "internal_error"
            if not is_answered:
                raise
        finally:
            endpoint = self._endpoint_of(scope["path"])
            if endpoint is not None:
                served = Served(context, endpoint, scope["method"], time.perf_counter())
                self._metrics.observe_request(
                    endpoint.name, context.outcome, served.ended - context.arrival, context.budget_s
                )
                for observe in self._observers:
                    observe(served)


def _is_here() -> bool:
    return False


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return os.urandom(16).hex()
