"""How a URL is read; what a service answers is asked in ``test_command``."""

from __future__ import annotations

import pytest

from offline.bench.offer import Endpoint
from offline.bench.served import API_KEY_ENV, parse_endpoint
from ranktower.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://localhost:8000", "localhost", 8000),
        ("http://10.0.0.1:81/", "10.0.0.1", 81),
        ("http://name", "name", 80),
    ],
)
def test_host_and_port(url: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_ENV, raising=False)
    assert parse_endpoint(url) == Endpoint(host, port)


def test_key_and_priority_become_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_ENV, "the-key")
    headers = parse_endpoint("http://localhost:8000", priority="low").headers
    assert headers == {"x-api-key": "the-key", "x-ranktower-priority": "low"}


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "https://x", "http://", "http://x/v1", "http://x?a=1", "http://me:word@x:1"]
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--url .*: expected http://host:port"):
        parse_endpoint(url)
