"""Errors that become an answer. Their texts are read by clients: no paths, no internals, no stack trace."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.context import context_of

logger = logging.getLogger(__name__)


class ServiceError(Exception):
    """An answer other than 200. ``error_type`` is stable and is also the outcome in the metrics."""

    status = 500
    error_type = "internal_error"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        """``message`` goes to the client as it is."""
        super().__init__(message)
        self.message = message
        self.headers = headers


class UnauthorizedError(ServiceError):
    """No API key."""

    status, error_type = 401, "unauthorized"


class ForbiddenError(ServiceError):
    """A wrong API key, or one that has expired."""

    status, error_type = 403, "forbidden"


class NotFoundError(ServiceError):
    """A model or a release that is not served here."""

    status, error_type = 404, "not_found"


class BodyTimeoutError(ServiceError):
    """The client did not send its body in time."""

    status, error_type = 408, "body_timeout"


class ClientGoneError(ServiceError):
    """The client closed the connection, before its body was complete or while its request waited or was scored; nobody
    reads this answer."""

    status, error_type = 400, "client_gone"


class BodyTooLargeError(ServiceError):
    """Too many bytes."""

    status, error_type = 413, "body_too_large"


class TooManyCandidatesError(ServiceError):
    """Too many candidates."""

    status, error_type = 413, "too_many_candidates"


class UnsupportedEncodingError(ServiceError):
    """A compressed body."""

    status, error_type = 415, "unsupported_content_encoding"


class MalformedError(ServiceError):
    """A body that is not what the endpoint asks for."""

    status, error_type = 422, "malformed"


class ShedError(ServiceError):
    """Refused for load, before any work."""

    status, error_type = 429, "shed"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        """``retry_after_s`` is rounded up to whole seconds, at least one."""
        super().__init__(message, headers={"retry-after": str(max(1, math.ceil(retry_after_s)))})


class RateLimitedError(ShedError):
    """More requests than the API key may make."""

    error_type = "rate_limited"


class NotExplainableError(ServiceError):
    """The release that is served cannot say what its scores are made of."""

    status, error_type = 501, "not_explainable"


class ReleaseUnavailableError(ServiceError):
    """No release is being served; ``error_type`` says why."""

    status = 503

    def __init__(self, message: str, reason: str) -> None:
        """``reason`` is one of the reasons of ``service.releases``."""
        super().__init__(message)
        self.error_type = reason


class DrainingError(ServiceError):
    """The service is being stopped; only readiness says so, requests are served."""

    status, error_type = 503, "draining"

    def __init__(self) -> None:
        """There is no more to say."""
        super().__init__("not ready: the service is being stopped")


class StoreDownError(ServiceError):
    """The embedding store did not answer."""

    status, error_type = 503, "store_unavailable"


class DeadlineExceededError(ServiceError):
    """Nothing was scored within the request's budget."""

    status, error_type = 504, "deadline_exceeded"

    def __init__(self) -> None:
        """Where the time went is in the metrics, not in the text."""
        super().__init__("the budget was used up before anything was scored")


def error_response(request: Request, error: ServiceError) -> Response:
    """The one error body: ``error``, ``error_type``, ``request_id``."""
    context = context_of(request)
    context.outcome = error.error_type
    body = orjson.dumps(
        {"error": error.message, "error_type": error.error_type, "request_id": context.request_id},
    )
    return Response(body, status_code=error.status, headers=error.headers, media_type="application/json")


async def on_service_error(request: Request, error: Exception) -> Response:
    """Answer with the error's own status."""
    if not isinstance(error, ServiceError):
        raise TypeError(f"not a ServiceError: {type(error).__name__}")
    return error_response(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer Starlette's own 404 and 405 in the common body."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"not an HTTPException: {type(error).__name__}")
    error_types = {404: "not_found", 405: "method_not_allowed"}
    texts = {404: "no such path; see /docs", 405: f"method {request.method} is not allowed here"}
    answer = ServiceError(texts.get(error.status_code, "the request cannot be answered"), headers=error.headers)
    answer.status = error.status_code
    answer.error_type = error_types.get(error.status_code, "http_error")
    return error_response(request, answer)


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Answer 500 without a word of the cause; the log has it, each once a minute, under the request id."""
    logger.error("internal error", exc_info=error, extra={"fields": {"request_id": context_of(request).request_id}})
    return error_response(request, ServiceError("internal error; the log has more under this request_id"))
