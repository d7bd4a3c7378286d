"""The endpoints that score, reached without the framework's routing.

FastAPI finds a route by trying patterns in turn, enters four middlewares and two exit stacks, and solves dependencies;
for an endpoint that takes nothing but the request this is work for nothing. Here the path is looked up and the same
endpoint function called. The application behind has the routes too: for their documentation, and for whatever is not
exactly this method and path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError, error_response, on_unexpected

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoutes:
    """Calls the endpoint of a known method and path itself, and passes every other request on."""

    def __init__(self, app: FastAPI, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        """``endpoints`` by method and path; they find ``app`` in their request, as behind its own routing."""
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with the same answers to errors as the application's."""
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except ServiceError as error:
            response = error_response(request, error)
        except Exception as error:
            response = await on_unexpected(request, error)
            await response(scope, receive, send)
            raise  # as the framework does
        await response(scope, receive, send)
