"""One log line for a request that was slow or failed, and for a share of the others: what it was, where its time went.

Never its body, its key, or an id of a user or an item.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from typing import Any

from service.context import RequestContext, Served
from service.settings import LogSettings

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class RequestLog:
    """Writes these lines, at most so many a second: an overload must not become a flood of lines as well."""

    def __init__(self, settings: LogSettings) -> None:
        """``settings`` say what is slow, which share of the other requests is logged, and how many lines a second."""
        self._slow_s = settings.slow_ms / 1000.0
        self._sample = settings.sample
        self._max_lines = settings.max_lines_per_s
        self._num_lines = 0
        self._num_suppressed = 0
        self._window: asyncio.TimerHandle | None = None
        """Ends the second for which lines are counted; None before the first line of the next."""

    def observe(self, served: Served) -> None:
        """Log a request whose answer has been written, or leave it; in the server's event loop."""
        context = served.context
        status = context.status or 500
        took_s = served.ended - context.arrival
        if status >= 500:
            level, message = logging.WARNING, "request failed"
        elif took_s >= self._slow_s:
            level, message = logging.WARNING, "slow request"
        elif self._sample and random.random() < self._sample:
            level, message = logging.INFO, "request"
        else:
            return
        if logger.isEnabledFor(level) and self._may_write():
            logger.log(level, message, extra={"fields": line_fields(served, status, took_s)})

    def _may_write(self) -> bool:
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(1.0, self._end_window)
        if self._num_lines >= self._max_lines:
            self._num_suppressed += 1
            return False
        self._num_lines += 1
        return True

    def _end_window(self) -> None:
        if self._num_suppressed:
            logger.warning("request lines suppressed", extra={"fields": {"num_requests": self._num_suppressed}})
        self._num_lines = self._num_suppressed = 0
        self._window = None


def line_fields(served: Served, status: int, took_s: float) -> dict[str, Any]:
    """What a line says of a request that took ``took_s`` seconds, without what is not known of it."""
    context = served.context
    fields = {
        "request_id": context.request_id,
        "trace_id": context.trace_id or _callers_trace_id(context),
        "endpoint": served.endpoint.name,
        "outcome": context.outcome,
        "status": status,
        "release": context.release,
        # Not "level", which is the line's own.
        "scored": context.level,
        "degraded_reason": context.degraded_reason,
        "num_candidates": context.num_candidates,
        "num_missing": context.num_missing,
        "user": context.user,
        "stages_ms": {stage: round(seconds * 1e3, 3) for stage, seconds in context.seconds_by_stage().items()},
        "took_ms": round(took_s * 1e3, 3),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _callers_trace_id(context: RequestContext) -> str | None:
    """Also where this service traces nothing: the caller's own trace leads to the line."""
    found = _TRACEPARENT.fullmatch(context.headers.get(b"traceparent", b""))
    return found[1].decode("ascii") if found else None
