"""API keys on a running server: who is let in, and what an answer tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

KEY = "correct-horse-battery"
BODY = {"user_id": "user-1", "candidate_ids": [1]}


@pytest.fixture(scope="module")
def locked(release: Any, start_server: Callable[..., Any]) -> Any:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY=KEY)
    server.wait_ready()
    return server


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"Bearer {KEY}", "x-api-key": ""},
    ],
)
def test_the_key_opens(locked: Any, headers: dict[str, str]) -> None:
    assert locked.client.post("/v1/score", json=BODY, headers=headers).status_code == 200
    assert locked.client.get("/v1/release", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/nothing", "/v1/%73core", "/v2/models/demo/infer"])
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Basic abc"}, {"cookie": f"x-api-key={KEY}"}, {"x-api-key": ""}]
)
def test_no_key_is_401(locked: Any, path: str, headers: dict[str, str]) -> None:
    answer = locked.client.post(path, json=BODY, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error_type"] == "unauthorized"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("key", ["wrong", KEY[:-1], KEY + "x", KEY.upper(), "ключ"])
def test_a_wrong_key_is_403(locked: Any, key: str) -> None:
    answer = locked.client.post("/v1/score", json=BODY, headers={"x-api-key": key.encode()})
    assert answer.status_code == 403
    assert answer.json()["error_type"] == "forbidden"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/ready", "/v2", "/metrics", "/docs", "/openapi.json"])
def test_probes_metrics_and_documentation_need_none(locked: Any, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_failures_are_counted_by_reason_and_requests_by_the_keys_name(locked: Any) -> None:
    def counts() -> list[float]:
        failures = (locked.metric("ranktower_auth_failures_total", reason=one) for one in ("missing", "unknown"))
        return [*failures, locked.metric("ranktower_auth_requests_total", key="environment")]

    before = counts()
    for headers in ({}, {"x-api-key": "other"}, {"x-api-key": "other"}, {"x-api-key": KEY}):
        locked.client.get("/v1/release", headers=headers)
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [1, 2, 1]


def test_the_key_is_nowhere_to_be_read(locked: Any) -> None:
    locked.client.post("/v1/score", json=BODY, headers={"x-api-key": "other"})
    assert KEY not in locked.log.read_text()
    for path in ("/openapi.json", "/metrics", "/readyz"):
        assert KEY not in locked.client.get(path).text
    assert locked.metric("ranktower_request_duration_seconds_count", outcome="forbidden") >= 1
