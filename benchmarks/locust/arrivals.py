"""Requests that come when they are due, whatever became of those before.

A locust user usually sends, waits for the answer and goes on, so that a server that stalls is sent less. Here the
requests of a user are due at the times of a Poisson process; each is sent by a greenlet of its own, and its latency
counts from its due time: connecting and the generator's own lateness are in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gevent
import gevent.pool
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from outcomes import Answer, Outcome, judge
from traffic import Request, Traffic

# More than are ever needed: callers do not wait for each other's connections, and those of a service that hangs are
# given up one timeout later.
_CONNECTIONS = 8192
_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sent:
    """One request and what became of it.

    Attributes:
        due_s: when it was due, seconds since 1970.
        lag_ms: how late the generator began to send it.
        latency_ms: from the due time to the end of the answer, or until none was expected any more.
    """

    request: Request
    answer: Answer
    outcome: Outcome
    due_s: float
    lag_ms: float
    latency_ms: float


class Arrivals:
    """The requests of all users of a process, over keep-alive connections that they share."""

    def __init__(self, host: str, headers: Mapping[str, str], on_sent: Callable[[Sent], None]) -> None:
        """``host`` is ``http://host:port``; ``on_sent`` gets every request once it is answered or given up."""
        self._client = HTTPClient.from_url(
            host,
            headers={"content-type": "application/json", **headers},
            concurrency=_CONNECTIONS,
            network_timeout=_ANSWER_TIMEOUT_S,
            connection_timeout=_ANSWER_TIMEOUT_S,
        )
        self._on_sent = on_sent
        self._in_flight = gevent.pool.Group()

    def send_at_random(self, traffic: Traffic, rate_per_s: float) -> None:
        """Be one user, until the greenlet is killed; what is in flight then goes on."""
        due = time.perf_counter()
        while True:
            due += traffic.next_gap_s(rate_per_s)
            request = traffic.draw()  # before it is due: drawing takes its time as well
            gevent.sleep(max(due - time.perf_counter(), 0.0))  # lets the others go on even where it is late
            # The loop's clock stands still while it works, so that its timers may go off early.
            while (left_s := due - time.perf_counter()) > 0:
                gevent.sleep(left_s)
            self._in_flight.spawn(self._send, request, due)

    def finish(self) -> None:
        """Wait for the answers that are still to come."""
        self._in_flight.join(timeout=2 * _ANSWER_TIMEOUT_S)

    def _send(self, request: Request, due: float) -> None:
        lag_ms = (time.perf_counter() - due) * 1e3
        answer = self._ask(request)
        passed_s = time.perf_counter() - due
        outcome = judge(request, answer, passed_s * 1e3)
        self._on_sent(Sent(request, answer, outcome, time.time() - passed_s, lag_ms, passed_s * 1e3))

    def _ask(self, request: Request) -> Answer:
        try:
            response = self._client.post(request.path, request.body)
            return Answer(response.status_code, bytes(response.read()))
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            return Answer(0, error=type(error).__name__)
