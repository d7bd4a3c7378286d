"""What a call may raise. Each error has the service's ``error_type`` and the id that the service's log has too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial


class RankTowerError(Exception):
    """A call that got no answer to its question."""

    def __init__(
        self,
        message: str,
        *,
        error_type: str,
        request_id: str,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """What the service said, or what happened on the way to it."""
        super().__init__(f"{message} ({error_type}, request {request_id})")
        self.message = message
        self.error_type = error_type
        """As in docs/api.md; ``connection_failed`` and ``deadline_exceeded`` may also be the client's own finding, and
        ``http_<status>`` is the answer of something in between."""
        self.request_id = request_id
        self.status = status
        """Of the answer; None where there was none."""
        self.retry_after_s = retry_after_s
        """How long to stay away, where the service says so; infinite where it says so in another form than seconds."""

    def __reduce__(self) -> tuple[Callable[[str], RankTowerError], tuple[str]]:
        """For pickle, by which pools of processes send errors: it would call the class with the text alone."""
        told = ("error_type", "request_id", "status", "retry_after_s")
        return partial(type(self), **{name: getattr(self, name) for name in told}), (self.message,)


class InvalidRequestError(RankTowerError):
    """400, 404, 405, 408, 413, 415, 422, and 501, what this release cannot do: the same request will fail again."""


class AuthenticationError(RankTowerError):
    """401, 403: no API key, or a wrong one."""


class OverloadedError(RankTowerError):
    """429: refused for load, or more requests than the API key may make."""


class UnavailableError(RankTowerError):
    """502, 503: no release is served, its store does not answer, or a proxy finds no service."""


class DeadlineError(RankTowerError):
    """504, or the deadline passed here."""


class ConnectionFailedError(RankTowerError):
    """No connection, or one that broke before the whole answer was here."""


class ServerError(RankTowerError):
    """Any other answer, or one that is not the service's."""


NOT_READY = (UnavailableError, ConnectionFailedError, DeadlineError)
"""What a service that cannot be reached, or serves nothing, comes to."""

_BY_STATUS: dict[int, type[RankTowerError]] = {
    **dict.fromkeys((400, 404, 405, 408, 413, 415, 422, 501), InvalidRequestError),
    **dict.fromkeys((401, 403), AuthenticationError),
    429: OverloadedError,
    **dict.fromkeys((502, 503), UnavailableError),
    504: DeadlineError,
}


def error_of(status: int, headers: Mapping[str, str], content: bytes, *, request_id: str) -> RankTowerError:
    """The error that an answer other than 200 is. ``request_id`` is the call's own, where the answer names none."""
    try:
        body = json.loads(content)
        message, error_type, request_id = body["error"], body["error_type"], body["request_id"]
    except (ValueError, TypeError, KeyError):  # not the service's: a proxy's page
        message, error_type = f"HTTP status {status}", f"http_{status}"
    kind = _BY_STATUS.get(status, ServerError)
    retry_after_s = _retry_after_s(headers)
    return kind(message, error_type=error_type, request_id=request_id, status=status, retry_after_s=retry_after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    return float(value) if value.isascii() and value.isdigit() else math.inf
