"""Requests that come when they are due, whatever became of those before.

A locust user usually sends, waits for the answer and goes on, so that a server that stalls is sent less. Here the
requests of a user are due at the times of a Poisson process; each is sent by a greenlet of its own, and its latency
counts from its due time: connecting and the generator's own lateness are in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent
import gevent.pool
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from outcomes import Answer, Outcome, judge
from traffic import Request, Traffic

from ranktower.errors import ConfigError

ANSWER_TIMEOUT_S = 10.0
# More than are ever needed: callers do not wait for each other's connections, and those of a service that hangs are
# given up one timeout later.
_CONNECTIONS = 8192


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


def path_of(host: str) -> str:
    """What comes before the path of every request; ConfigError where ``host`` is no address."""
    try:
        parts = urlsplit(host)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        is_address = False
    if not is_address or parts.query or parts.fragment:
        raise ConfigError(f"--host {host}: must be http://host:port, or https")
    return parts.path.rstrip("/")


class Arrivals:
    """The requests of all users of a process, over keep-alive connections that they share."""

    def __init__(self, host: str, headers: Mapping[str, str], on_sent: Callable[[Sent], None]) -> None:
        """``host`` is ``http://host:port``, with a path where the service is below one; ``on_sent`` gets every request
        once it is answered or given up. ConfigError where ``host`` is no address."""
        self._path = path_of(host)
        self._client = HTTPClient.from_url(
            host,
            headers={"content-type": "application/json", **headers},
            concurrency=_CONNECTIONS,
            network_timeout=ANSWER_TIMEOUT_S,
            connection_timeout=ANSWER_TIMEOUT_S,
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
        """Wait for the answers that are still to come: none takes longer than the timeout."""
        self._in_flight.join()

    def _send(self, request: Request, due: float) -> None:
        lag_ms = (time.perf_counter() - due) * 1e3
        answer = self._ask(request)
        passed_s = time.perf_counter() - due
        outcome = judge(request, answer, passed_s * 1e3)
        self._on_sent(Sent(request, answer, outcome, time.time() - passed_s, lag_ms, passed_s * 1e3))

    def _ask(self, request: Request) -> Answer:
        try:
            # Of the whole answer: the client's own timeouts begin anew with every piece of it.
            with gevent.Timeout(ANSWER_TIMEOUT_S, TimeoutError):
                response = self._client.post(self._path + request.path, request.body)
                return Answer(response.status_code, bytes(response.read()))
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            return Answer(0, error=type(error).__name__)
