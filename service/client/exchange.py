"""One call from its beginning to its answer: what is sent at each attempt, and what an outcome means. It does no
input and output itself, so that both clients share it."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from service.client.errors import (
    ConnectionFailedError,
    DeadlineError,
    InvalidRequestError,
    RankTowerError,
    ServerError,
    error_of,
)
from service.client.requests import Call
from service.client.retries import Retries, RetryBudget

T = TypeVar("T")

ALLOWANCE_MS = 2.0
"""Of the time left, what the service is not told of: the way there and back, and the reading of the answer."""

_LARGEST_BUDGET_MS = 60_000.0
# A refusal for load, and one by a service or a proxy that has nothing to answer with. All others would be the same.
_RETRIED_STATUSES = frozenset({429, 502, 503})


@dataclass(frozen=True, slots=True)
class Received:
    """A whole answer."""

    status: int
    headers: httpx.Headers
    content: bytes


Outcome = Received | httpx.RequestError | TimeoutError
"""What an attempt came to."""


class Exchange(Generic[T]):
    """The attempts of one call."""

    def __init__(self, call: Call[T], *, deadline_ms: float, retries: Retries, budget: RetryBudget) -> None:
        """The time runs from here on; ``deadline_ms`` where the call has none of its own."""
        self._call, self._retries, self._budget = call, retries, budget
        self._ends: float = time.monotonic() + call.options.get("deadline_ms", deadline_ms) / 1000
        self._num_attempts = 0
        self.request_id = call.options.get("request_id") or uuid.uuid4().hex
        self.result: T
        """What the call returns, once ``take`` has found an answer."""
        budget.earn()

    def left_s(self) -> float:
        """Seconds until the deadline; negative behind it."""
        return self._ends - time.monotonic()

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The next attempt, with what is left of the deadline as its budget; DeadlineError if that is nothing."""
        left_s = self.left_s()
        budget_ms = min(left_s * 1000 - ALLOWANCE_MS, _LARGEST_BUDGET_MS)
        if budget_ms <= 0:
            raise self._too_late()
        self._num_attempts += 1
        call, headers = self._call, {"x-request-id": self.request_id}
        if "traceparent" in call.options:
            headers["traceparent"] = call.options["traceparent"]
        if call.options.get("low_priority"):
            headers["x-ranktower-priority"] = "low"
        if call.body is None:
            return http.build_request("GET", call.path, headers=headers, timeout=left_s)
        headers["content-type"] = "application/json"
        content = json.dumps(call.body | {"budget_ms": budget_ms}, allow_nan=False, default=_plain).encode()
        return http.build_request("POST", call.path, content=content, headers=headers, timeout=left_s)

    def take(self, outcome: Outcome) -> float | None:
        """None where ``outcome`` is the answer, which is ``result`` then; else seconds to wait before the next attempt.

        Raises:
            RankTowerError: it is neither, or there is no time or no budget for a retry.
        """
        if isinstance(outcome, Received):
            if outcome.status == 200:
                self.result = self._read(outcome)
                return None
            error = error_of(outcome.status, outcome.headers, outcome.content, request_id=self.request_id)
            if outcome.status not in _RETRIED_STATUSES:
                raise error
            return self._pause_s(error)
        if isinstance(outcome, httpx.TimeoutException | TimeoutError):
            raise self._too_late() from outcome
        if isinstance(outcome, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
            # Its text is not passed on: it quotes what was to be sent, the API key too.
            message = f"the request cannot be sent ({type(outcome).__name__})"
            raise InvalidRequestError(message, error_type="malformed", request_id=self.request_id)
        message = f"{type(outcome).__name__}: {outcome}" if str(outcome) else type(outcome).__name__
        error = ConnectionFailedError(message, error_type="connection_failed", request_id=self.request_id)
        error.__cause__ = outcome
        return self._pause_s(error)

    def _pause_s(self, error: RankTowerError) -> float:
        """The pause after ``error``, which is raised if there is to be no further attempt."""
        pause_s = (error.retry_after_s or 0.0) + self._retries.pause_s(self._num_attempts)
        if not self._call.is_retried or self._num_attempts >= self._retries.max_attempts:
            raise error
        if pause_s + ALLOWANCE_MS / 1000 >= self.left_s() or not self._budget.spend():
            raise error
        return pause_s

    def _read(self, received: Received) -> T:
        try:
            return self._call.read(json.loads(received.content))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            message = f"{self._call.path}: the answer is not the service's"
            error = ServerError(message, error_type="http_200", request_id=self.request_id, status=200)
            raise error from cause

    def _too_late(self) -> DeadlineError:
        return DeadlineError("the deadline has passed", error_type="deadline_exceeded", request_id=self.request_id)


def _plain(value: Any) -> Any:
    """Python's own, of a scalar or an array of NumPy, which JSON does not know."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} {value!r} cannot be sent as JSON")
    return value.tolist()
