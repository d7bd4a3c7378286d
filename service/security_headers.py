"""Headers that every answer carries, whatever a browser may take it for. An ASGI middleware."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# On JSON these matter where somebody opens an endpoint in a browser: it is not taken for a page, and if it were, it
# could run nothing, load nothing and stand in no frame. A page of ours brings a policy of its own.
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
# What is answered to one key's holder is nobody else's, and old in the next moment.
_OF_AN_ENDPOINT = (*_ALWAYS, (b"cache-control", b"no-store"))
_ENDPOINTS = ("/v1/", "/v2/")


class SecurityHeaders:
    """Adds what an answer does not say itself. There is no header for CORS among them: no other origin may read."""

    def __init__(self, app: ASGIApp) -> None:
        """Around the whole application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = _OF_AN_ENDPOINT if scope["path"].startswith(_ENDPOINTS) else _ALWAYS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message.get("headers", ())
                names = {name for name, _ in own}
                message["headers"] = [*own, *[header for header in added if header[0] not in names]]
            await send(message)

        await self._app(scope, receive, send_with_headers)
