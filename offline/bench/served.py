"""The service that is measured, asked before the first measurement."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from offline.bench.offer import Endpoint
from ranktower.errors import ConfigError

API_KEY_ENV = "RANKTOWER_AUTH__API_KEY"
_TIMEOUT_S = 10.0
# An answer that says nothing of the request: the service has it, but not the time.
_BUSY = (429, 504)


@dataclass(frozen=True)
class Served:
    """The release that a service serves."""

    model: str
    release: str


def parse_endpoint(url: str, *, priority: str | None = None) -> Endpoint:
    """Where requests go, with the API key of the environment; ConfigError unless ``url`` is ``http://host:port``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise ConfigError(f"--url {url}: {error}") from None
    if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"--url {url}: expected http://host:port")
    headers = {"x-ranktower-priority": priority} if priority else {}
    key = os.environ.get(API_KEY_ENV)
    if key:
        headers["x-api-key"] = key
    return Endpoint(host, port, headers=headers)


def served_release(endpoint: Endpoint) -> Served:
    """What ``GET /v1/release`` says; ConfigError where the service is out of reach, refuses the key, or is none."""
    answer = _ask(endpoint, "GET", "/v1/release")
    try:
        found = answer.json()
        return Served(found["model"], found["release"])
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{answer.url}: not a release of ranktower: {answer.text[:200]!r}") from None


def check_request(endpoint: Endpoint, body: bytes) -> None:
    """Post one body, so that a wrong one does not turn into a measurement of errors; ConfigError says what is wrong."""
    _ask(endpoint, "POST", endpoint.path, body)


def _ask(endpoint: Endpoint, method: str, path: str, body: bytes | None = None) -> httpx.Response:
    address = f"http://{endpoint.host}:{endpoint.port}"
    try:
        # Without the proxies of the environment, as the load generator.
        with httpx.Client(base_url=address, headers=endpoint.headers, timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = client.request(method, path, content=body)
    except httpx.HTTPError as error:
        raise ConfigError(f"--url {address}: {error or type(error).__name__}") from error
    if answer.status_code in (401, 403):
        raise ConfigError(
            f"--url {address}: {answer.status_code}, {API_KEY_ENV} in the environment must be its API key"
        )
    if answer.status_code != 200 and answer.status_code not in _BUSY:
        raise ConfigError(f"--url {address}: {method} {path} was answered {answer.status_code}: {answer.text[:300]}")
    return answer
