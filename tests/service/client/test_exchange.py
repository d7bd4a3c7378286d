"""Deadlines and retries, of both clients, against a server that fails."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.client import (
    ConnectionFailedError,
    DeadlineError,
    Degraded,
    InvalidRequestError,
    OverloadedError,
    RankTowerError,
    Retries,
    ServerError,
    UnavailableError,
)
from service.client.exchange import Exchange
from service.client.requests import release_call
from service.client.retries import RetryBudget

Start = Callable[..., Any]
Answer = Callable[..., bytes]


def said(error_type: str) -> dict[str, str]:
    return {"error": "so it is", "error_type": error_type, "request_id": "r"}


def test_what_is_sent(make_client: Start, start_faulty: Start, good: bytes) -> None:
    server = start_faulty(good)
    span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client = make_client(server.url, api_key="k")
    assert client.score(12, ["a"], request_id="r-1", traceparent=span, low_priority=True).scores == [0.5]
    client.score(12, ["a"])
    first, second = server.requests
    assert first.line == "POST /v1/score HTTP/1.1"
    assert first.headers["x-api-key"] == "k"
    assert first.headers["x-request-id"] == "r-1"
    assert first.headers["traceparent"] == span
    assert first.headers["x-ranktower-priority"] == "low"
    assert first.json.keys() == {"user_id", "candidate_ids", "budget_ms"}
    assert not {"traceparent", "x-ranktower-priority"} & second.headers.keys()
    assert len(second.headers["x-request-id"]) == 32


def test_what_is_not_full_says_so_and_what_is_not_known_is_passed_over(
    make_client: Start, start_faulty: Start, good: bytes, answer: Answer
) -> None:
    degraded = {"level": "pooled", "reason": "load", "share": 0.0, "expected_ndcg": 0.9, "expected_recall": 0.8}
    content = json.loads(good.partition(b"\r\n\r\n")[2]) | {"degraded": degraded | {"new": 1}, "newer": [2]}
    found = make_client(start_faulty(answer(200, content)).url).score(1, [2])
    assert found.degraded == Degraded(**degraded)


def test_the_budget_is_what_is_left_of_the_deadline(make_client: Start, start_faulty: Start, good: bytes) -> None:
    server = start_faulty(good, "drop", good)
    client = make_client(server.url, deadline_ms=5000)
    client.score(1, [2])
    client.score(1, [2], deadline_ms=9000)
    client.score(1, [2], deadline_ms=10_000_000)
    once, failed, again, largest = [request.json["budget_ms"] for request in server.requests]
    assert 0 < once <= 4998
    assert 4998 < failed <= 8998
    assert 0 < again < failed
    assert largest == 60_000


def test_connections_are_kept(make_client: Start, start_faulty: Start, good: bytes) -> None:
    server = start_faulty(good)
    client = make_client(server.url)
    for _ in range(20):
        client.score(1, [2])
    assert (len(server.requests), server.num_connections) == (20, 1)


@pytest.mark.parametrize("fault", ["drop", "reset", "half"])
def test_a_broken_connection_is_tried_again_under_the_same_id(
    make_client: Start, start_faulty: Start, good: bytes, fault: str
) -> None:
    server = start_faulty(fault, fault, good)
    assert make_client(server.url, deadline_ms=20_000).score(1, [2]).scores == [0.5]
    assert len(server.requests) == 3
    assert len({request.headers["x-request-id"] for request in server.requests}) == 1
    assert [request.json["candidate_ids"] for request in server.requests] == [[2]] * 3


@pytest.mark.parametrize("fault", ["drop", "reset", "half"])
def test_but_not_more_often_than_it_may(make_client: Start, start_faulty: Start, fault: str) -> None:
    server = start_faulty(fault)
    with pytest.raises(ConnectionFailedError) as error:
        make_client(server.url, deadline_ms=20_000, retries=Retries(max_attempts=4)).score(1, [2], request_id="r-9")
    assert len(server.requests) == 4
    assert (error.value.error_type, error.value.status, error.value.request_id) == ("connection_failed", None, "r-9")
    assert isinstance(error.value.__cause__, httpx.TransportError)


def test_nobody_listens(make_client: Start, start_faulty: Start) -> None:
    server = start_faulty("drop")
    server.stop()
    with pytest.raises(ConnectionFailedError):
        make_client(server.url).score(1, [2])


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (503, said("loading"), {}),
        (429, said("shed"), {}),
        (502, b"<html>bad gateway</html>", {}),
        (429, said("shed"), {"retry_after": "0"}),
        (429, said("rate_limited"), {"retry_after": "1"}),
    ],
)
def test_refusals_are_tried_again(
    make_client: Start,
    start_faulty: Start,
    good: bytes,
    answer: Answer,
    status: int,
    body: Any,
    headers: dict[str, str],
) -> None:
    server = start_faulty(answer(status, body, **headers), good)
    assert make_client(server.url, deadline_ms=20_000).score(1, [2]).scores == [0.5]
    first, second = [request.json["budget_ms"] for request in server.requests]
    if headers.get("retry_after") == "1":
        assert first - second >= 1000


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "error_type"),
    [
        # Not before the deadline, or in a form that is not understood.
        (429, said("shed"), {"retry_after": "30"}, OverloadedError, "shed"),
        (503, said("loading"), {"retry_after": "Fri, 31 Dec 2027 23:59:59 GMT"}, UnavailableError, "loading"),
        # The same would come again.
        (422, said("malformed"), {}, InvalidRequestError, "malformed"),
        (501, said("not_explainable"), {}, InvalidRequestError, "not_explainable"),
        (504, said("deadline_exceeded"), {}, DeadlineError, "deadline_exceeded"),
        (500, said("internal_error"), {}, ServerError, "internal_error"),
        # Not of the service.
        (504, b"<html>gateway timeout</html>", {}, DeadlineError, "http_504"),
        (302, b"", {"location": "/login"}, ServerError, "http_302"),
        (500, b"[1]", {}, ServerError, "http_500"),
        (200, b"<html>hello</html>", {}, ServerError, "http_200"),
        (200, b"{}", {}, ServerError, "http_200"),
        (200, b'"a string"', {}, ServerError, "http_200"),
    ],
)
def test_other_answers_are_not(
    make_client: Start, start_faulty: Start, answer: Answer, status: int, body: Any, headers: dict[str, str],
    kind: type[RankTowerError], error_type: str,
) -> None:  # fmt: skip
    server = start_faulty(answer(status, body, **headers))
    with pytest.raises(RankTowerError) as error:
        make_client(server.url, deadline_ms=20_000).score(1, [2])
    assert (type(error.value), error.value.status, error.value.error_type) == (kind, status, error_type)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_takes_too_long_costs_the_deadline_and_no_second_attempt(
    make_client: Start, start_faulty: Start, fault: str
) -> None:
    server = start_faulty(fault)
    with pytest.raises(DeadlineError) as error:
        make_client(server.url).score(1, [2], deadline_ms=100)
    assert (error.value.error_type, error.value.status) == ("deadline_exceeded", None)
    assert len(server.requests) == 1


@pytest.mark.parametrize("deadline_ms", [-1, 0, 2])
def test_without_time_nothing_is_sent(make_client: Start, start_faulty: Start, good: bytes, deadline_ms: float) -> None:
    server = start_faulty(good)
    with pytest.raises(DeadlineError, match="the deadline has passed"):
        make_client(server.url).score(1, [2], deadline_ms=deadline_ms)
    assert server.requests == []


def test_all_calls_together_retry_what_they_have_earned(make_client: Start, start_faulty: Start, good: bytes) -> None:
    """Two in reserve; then a call of ten is tried again, however many fail."""
    server = start_faulty("drop")
    retries = Retries(max_attempts=5, first_pause_ms=0, share=0.1, reserve=2)
    client = make_client(server.url, deadline_ms=60_000, retries=retries)
    for _ in range(40):
        with pytest.raises(ConnectionFailedError):
            client.score(1, [2])
    assert 40 + 2 + 3 <= len(server.requests) <= 40 + 2 + 4


def test_readiness_is_asked_once(make_client: Start, start_faulty: Start) -> None:
    server = start_faulty("drop")
    assert make_client(server.url).ready() is False
    assert [request.line for request in server.requests] == ["GET /v2/health/ready HTTP/1.1"]


def test_what_cannot_be_sent_is_no_broken_connection_and_is_not_quoted() -> None:
    """Nothing gets so far past the checks of ``options.py``; the texts of httpx quote whole headers."""
    exchange = Exchange(release_call({}), deadline_ms=1000, retries=Retries(), budget=RetryBudget(Retries()))
    for outcome in (httpx.LocalProtocolError("Illegal header value b'secret'"), httpx.UnsupportedProtocol("secret")):
        with pytest.raises(InvalidRequestError, match=rf"cannot be sent \({type(outcome).__name__}\)") as error:
            exchange.take(outcome)
        assert "secret" not in "".join(traceback.format_exception(error.value))
