"""The API key, where one is configured."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForbiddenError, UnauthorizedError, error_response

_PROTECTED = "/v1/"


class ApiKeyMiddleware:
    """Asks for the key on everything under /v1/. Probes, metrics and documentation stay open: a probe has no key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        """``api_key`` is compared in constant time."""
        self._app = app
        self._key = api_key.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 without a key and 403 with a wrong one."""
        if scope["type"] == "http" and scope["path"].startswith(_PROTECTED):
            given = _given_key(scope)
            if given is None:
                error = UnauthorizedError("an API key is required", headers={"www-authenticate": "Bearer"})
                await error_response(Request(scope), error)(scope, receive, send)
                return
            if not hmac.compare_digest(given, self._key):
                await error_response(Request(scope), ForbiddenError("the API key is wrong"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _given_key(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            key: bytes = value
            return key
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer: bytes = value[7:].strip()
            return bearer
    return None
