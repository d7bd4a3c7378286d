"""Request ids, and what is measured of a request."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("given", ["a", "4bf92f3577b34da6a3ce929d0e0e4736", "req:1/2.3_4-5+6=7@8~"[:-1], "x" * 128])
def test_a_good_request_id_is_kept(server: Any, given: str) -> None:
    answer = server.client.post("/v1/score", json={"user_id": 1, "candidate_ids": [1]}, headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "<script>", "ä", "a\tb", "{}"])
def test_another_is_replaced(server: Any, given: str) -> None:
    answer = server.client.get("/livez", headers={"x-request-id": given.encode("latin-1")})
    assert answer.status_code == 200
    assert len(answer.headers["x-request-id"]) == 32
    assert int(answer.headers["x-request-id"], 16) >= 0


def test_every_answer_has_an_id_of_its_own(server: Any) -> None:
    ids = {server.client.get(path).headers["x-request-id"] for path in ("/livez", "/nowhere", "/v1/score", "/livez")}
    assert len(ids) == 4


def test_outcomes_are_counted_by_endpoint(server: Any) -> None:
    name = "ranktower_request_duration_seconds_count"

    def counts() -> list[float]:
        pairs = (
            ("score", "ok"),
            ("score", "malformed"),
            ("rank", "too_many_candidates"),
            ("score", "method_not_allowed"),
        )
        return [server.metric(name, endpoint=endpoint, outcome=outcome) for endpoint, outcome in pairs]

    before = counts()
    server.score("user-1", [1])
    server.score("user-1", [1.5])
    server.client.post("/v1/rank", json={"user_id": 1, "candidate_ids": [1] * 10_001})
    server.client.get("/v1/score")
    server.client.get("/nowhere")
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [1, 1, 1, 1]
