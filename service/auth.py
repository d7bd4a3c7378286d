"""API keys and their rate limits, in front of every endpoint that works for a client."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api_keys import KeyEntry
from service.context import RequestContext
from service.errors import ForbiddenError, RateLimitedError, ServiceError, UnauthorizedError, error_response
from service.key_watch import KeyWatch
from service.rate_limit import RateLimits
from service.settings import SHARED_FOLDER_ENV, Settings

PROTECTED = ("/v1/", "/v2/models/")
"""What the paths begin with that a key is asked for."""


class ApiKeyMiddleware:
    """Asks for a key on everything that works for a client. Probes, metrics and documentation stay open: a probe has no
    key."""

    def __init__(self, app: ASGIApp, settings: Settings, registry: CollectorRegistry) -> None:
        """The keys are those of ``settings.auth``, read at the application's start; the metrics go to ``registry``."""
        self._app = app
        folder = os.environ.get(SHARED_FOLDER_ENV)
        self._limits = RateLimits(None if folder is None else Path(folder))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ranktower_{name}", text, labels, registry=registry)

        self._admitted = counter("auth_requests", "Requests with a valid key, by its name.", "key")
        self._failures = counter("auth_failures", "Requests without a valid key.", "reason")
        self._limited = counter("rate_limited", "Requests above their key's limit.", "key")
        # From 0 on, so that the first has an increase by it.
        for reason in ("missing", "unknown", "expired"):
            self._failures.labels(reason)
        refused = counter("auth_keys_refused", "Looks at a keys file that was broken or gone.")
        self._watch = KeyWatch(settings, refused, self._take_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 without a key, 403 with a wrong or expired one, 429 above its limit."""
        if scope["type"] == "lifespan":
            await self._watch.start()
            try:
                await self._app(scope, receive, send)
            finally:
                await self._watch.stop()
            return
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            context: RequestContext = scope["state"]["context"]
            refusal = self._refusal(context.headers)
            if refusal is not None:
                await error_response(Request(scope), refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _take_keys(self, entries: Sequence[KeyEntry]) -> None:
        self._limits.keep({one.id for one in entries})
        for one in entries:
            if one.rate is not None:
                self._limited.labels(one.name)

    def _refusal(self, headers: Mapping[bytes, bytes]) -> ServiceError | None:
        given = _given_key(headers)
        if given is None:
            self._failures.labels("missing").inc()
            return UnauthorizedError("an API key is required", headers={"www-authenticate": "Bearer"})
        key = self._watch.ring.find(given)
        if key is None:
            self._failures.labels("unknown").inc()
            return ForbiddenError("the API key is wrong")
        if time.time() >= key.expires_at:
            self._failures.labels("expired").inc()
            return ForbiddenError("the API key has expired")
        self._admitted.labels(key.name).inc()
        wait_s = 0.0 if key.rate is None else self._limits.take(key.id, key.rate)
        if wait_s > 0:
            self._limited.labels(key.name).inc()
            return RateLimitedError("more requests than this API key may make", retry_after_s=wait_s)
        return None


def _given_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    key = headers.get(b"x-api-key")
    if not key:
        bearer = headers.get(b"authorization", b"")
        key = bearer[7:].strip() if bearer[:7].lower() == b"bearer " else None
    return key or None
