"""Options that cannot be meant are refused where they enter, by both clients, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
ASKED: list[Callable[..., Any]] = [
    lambda client, **options: client.score(1, [2], **options),
    lambda client, **options: client.rank(1, **options),
    lambda client, **options: client.explain(1, [2], **options),
    lambda client, **options: client.release(**options),
    lambda client, **options: client.ready(**options),
]


def test_an_option_that_there_is_not(make_client: Make, start_faulty: Make, good: bytes) -> None:
    server = start_faulty(good)
    known = "api_key, deadline_ms, retries, ssl_context"
    with pytest.raises(TypeError, match=f"^unknown option apikey, timeout; known are {known}$"):
        make_client(server.url, timeout=3, apikey="a-key")
    for ask in ASKED:
        with pytest.raises(TypeError, match=r"^unknown option foo; known are .*deadline_ms"):
            ask(make_client(server.url), foo=1)
    with pytest.raises(TypeError, match=r"^unknown option levels; known are .*freshness"):
        make_client(server.url).score(1, [2], levels=True)
    assert server.requests == []


def test_none_is_as_good_as_absent(make_client: Make, start_faulty: Make, good: bytes) -> None:
    server = start_faulty(good)
    client = make_client(server.url, api_key=None, deadline_ms=None, retries=None, ssl_context=None)
    client.score(1, [2], deadline_ms=None, request_id=None, traceparent=None, user_features=None, freshness=None)
    (sent,) = server.requests
    assert sent.json.keys() == {"user_id", "candidate_ids", "budget_ms"}
    assert not {"x-api-key", "traceparent"} & sent.headers.keys()
    assert len(sent.headers["x-request-id"]) == 32


@pytest.mark.parametrize("key", ["rt_secret\r\nx: 1", "rt_secret\x00", "rt_sécret", " \n", b"rt_secret", 5])
def test_a_key_that_is_no_header_is_not_shown(make_client: Make, key: Any) -> None:
    with pytest.raises(ValueError, match=r"^api_key: must be a string of printable ASCII characters$"):
        make_client("http://127.0.0.1:9", api_key=key)


def test_white_space_around_a_header_is_dropped(make_client: Make, start_faulty: Make, good: bytes) -> None:
    server = start_faulty(good)
    make_client(server.url, api_key="rt_key\r\n").score(1, [2], request_id="r-1 ")
    (sent,) = server.requests
    assert (sent.headers["x-api-key"], sent.headers["x-request-id"]) == ("rt_key", "r-1")


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"request_id": "a b"}, "^request_id: must be a string of 1 to 128 of A-Z a-z 0-9"),
        ({"request_id": "a" * 129}, "^request_id: must be"),
        ({"request_id": "r\r\nx-api-key: k"}, "^request_id: must be"),
        ({"traceparent": "00-a\nb"}, "^traceparent: must be a string of printable ASCII characters$"),
        ({"deadline_ms": math.inf}, r"^deadline_ms: must be at most 86400000 \(a day\), got inf$"),
        ({"deadline_ms": math.nan}, "^deadline_ms: must be at most 86400000 .* got nan$"),
    ],
)
def test_a_value_that_cannot_be_sent(
    make_client: Make, start_faulty: Make, good: bytes, ask: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    server = start_faulty(good)
    with pytest.raises(ValueError, match=text):
        ask(make_client(server.url), **options)
    assert server.requests == []


def test_the_longest_deadline(make_client: Make, start_faulty: Make, good: bytes) -> None:
    assert make_client(start_faulty(good).url, deadline_ms=86_400_000).score(1, [2]).scores == [0.5]
    with pytest.raises(ValueError, match=r"^deadline_ms: must be at most"):
        make_client("http://127.0.0.1:9", deadline_ms=math.inf)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "localhost:8000", "", "http://", "https:///v1", "ftp://h", "http://h\n", "http://u:p@h:port"],
)
def test_an_address_that_is_none_is_not_shown(make_client: Make, url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: must begin with http:// or https:// and name a host$"):
        make_client(url)
