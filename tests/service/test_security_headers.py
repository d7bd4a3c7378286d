"""What every answer carries on a running server, and that no other page may read it."""

from __future__ import annotations

from typing import Any

import pytest

NOTHING = "default-src 'none'; frame-ancestors 'none'"
BODY = {"user_id": "user-1", "candidate_ids": [1]}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/score", 200),
        ("GET", "/v1/release", 200),
        ("GET", "/v1/score", 405),
        ("POST", "/v1/nowhere", 404),
        ("GET", "/livez", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
    ],
)
def test_an_answer_is_no_page_for_a_browser(server: Any, method: str, path: str, status: int) -> None:
    answer = server.client.request(method, path, json=BODY)
    assert answer.status_code == status
    headers = answer.headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("content-security-policy") == [NOTHING]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get("cache-control") == ("no-store" if path.startswith("/v1/") else None)


def test_a_page_and_its_files_keep_their_own(server: Any) -> None:
    headers = server.client.get("/docs").headers
    assert [policy.split(";")[1] for policy in headers.get_list("content-security-policy")] == [" connect-src 'self'"]
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert "immutable" in server.client.get("/docs/swagger-ui.css").headers["cache-control"]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/release", "/metrics", "/livez", "/docs"])
def test_a_page_from_elsewhere_may_read_nothing(server: Any, path: str) -> None:
    origin = {"origin": "https://elsewhere.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, x-api-key"}
    preflight = server.client.options(path, headers=origin | asked)
    assert preflight.status_code == 405
    for answer in (preflight, server.client.post(path, json=BODY, headers=origin), server.client.get(path)):
        assert not any(name.startswith("access-control-") for name in answer.headers)
