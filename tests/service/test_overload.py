"""Too little time and too many requests, on a running server: what is answered is right, and the rest is told why."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.local import LocalTable
from service.scorer import Scorer

ATOL = 4e-5
# So much of the budget is kept back that none is left to plan with, yet the deadline itself is far.
NO_TIME = {"BUDGET__MARGIN": "0.999999"}
LONG = 10_000  # candidates; tens of milliseconds


def calibrated(release: Any, level: str, user_id: str) -> NDArray[np.float32]:
    """A lower level's scores of all items, on the scale of full scoring."""
    scorer = Scorer(release.folder, release.manifest, ["projected"])
    tables = {side: LocalTable(release.folder / f"{side}s", release.manifest.layout(side)) for side in ("user", "item")}
    user, items = tables["user"].fetch([user_id]).raw, tables["item"].locate(release.item_ids).embeddings()
    (calibration,) = (one.calibration for one in release.manifest.ladder if one.level == level)
    return calibration.apply(scorer.score_level(level, user, items))


@pytest.fixture(scope="module")
def hurried(release: Any, start_server: Callable[..., Any]) -> Any:
    server = start_server(release.folder.parent.parent, **NO_TIME)
    server.wait_ready()
    return server


def test_without_time_an_answer_is_degraded_and_says_what_that_costs(hurried: Any, release: Any) -> None:
    before = hurried.metric("ranktower_degraded_total", level="pooled", reason="budget")
    body = hurried.score("user-1", release.item_ids, budget_ms=5000).json()
    level = next(one for one in release.manifest.ladder if one.level == "pooled")
    assert body["degraded"] == {
        "level": "pooled",
        "reason": "budget",
        "share": 0.0,
        "expected_ndcg": level.ndcg_to_full,
        "expected_recall": level.recall_to_full,
    }
    np.testing.assert_allclose(body["scores"], calibrated(release, "pooled", "user-1"), atol=ATOL)
    assert hurried.metric("ranktower_degraded_total", level="pooled", reason="budget") == before + 1


def test_a_degraded_ranking_is_in_the_order_of_its_level(hurried: Any, release: Any) -> None:
    body = hurried.client.post(
        "/v1/rank", json={"user_id": "user-2", "candidate_ids": release.item_ids, "top_k": 10, "budget_ms": 5000}
    ).json()
    assert body["degraded"]["level"] == "pooled"
    best = np.argsort(-calibrated(release, "pooled", "user-2"), kind="stable")[:10]
    assert [item["id"] for item in body["items"]] == [release.item_ids[index] for index in best]


def test_what_has_no_row_is_missing_at_every_level(hurried: Any) -> None:
    body = hurried.score("user-1", [5, "nowhere", 7], budget_ms=5000).json()
    assert body["missing"] == [1]
    assert body["degraded"]["level"] == "pooled"
    assert (body["scores"][1], len(body["scores"])) == (None, 3)


def test_without_a_budget_every_answer_is_full(hurried: Any, release: Any) -> None:
    body = hurried.score("user-1", release.item_ids).json()
    assert body["degraded"] is None
    np.testing.assert_allclose(body["scores"], release.scores("user-1", release.item_ids), atol=ATOL)


def test_the_proxys_header_is_a_budget_too(hurried: Any) -> None:
    body = {"user_id": "user-1", "candidate_ids": [1]}
    answer = hurried.client.post("/v1/score", json=body, headers={"x-envoy-expected-rq-timeout-ms": "5000"})
    assert answer.json()["degraded"]["level"] == "pooled"


def test_a_release_without_a_ladder_is_scored_in_full_or_not_at_all(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Any
) -> None:
    built = build_release(tmp_path, seed=72, ladder=False)
    built.promote()
    server = start_server(tmp_path, **NO_TIME)
    server.wait_ready()
    body = server.score("user-1", built.item_ids, budget_ms=5000).json()
    assert body["degraded"] is None
    np.testing.assert_allclose(body["scores"], built.scores("user-1", built.item_ids), atol=ATOL)
    assert server.score("user-1", [1], budget_ms=0.001).json()["error_type"] == "deadline_exceeded"


def together(server: Any, count: int, post: Callable[[httpx.Client], httpx.Response]) -> list[httpx.Response]:
    """So many requests from as many clients at once."""
    barrier = threading.Barrier(count)

    def one(_: int) -> httpx.Response:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            client.get("/livez")
            barrier.wait()
            return post(client)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_full_queue_refuses_and_is_open_again_afterwards(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, OVERLOAD__MAX_WAITING="2")
    server.wait_ready()
    body = {"user_id": "user-1", "candidate_ids": (release.item_ids * 40)[:LONG]}
    answers = together(server, 24, lambda client: client.post("/v1/score", json=body))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error_type"] == "shed"
            assert answer.json()["error"] == "overloaded: 2 requests are waiting"
            assert int(answer.headers["retry-after"]) >= 1
    assert server.metric("ranktower_shed_total", reason="queue_full") == counts[429]
    assert server.metric("ranktower_request_duration_seconds_count", outcome="shed") == counts[429]
    assert server.score("user-1", [1]).status_code == 200


def test_the_lower_class_is_refused_first(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, OVERLOAD__MAX_WAITING="48")
    server.wait_ready()
    body = {"user_id": "user-1", "candidate_ids": (release.item_ids * 40)[:LONG]}
    turn = iter(range(48))

    def post(client: httpx.Client) -> httpx.Response:
        headers = {"x-ranktower-priority": "low"} if next(turn) % 2 else {}
        answer = client.post("/v1/score", json=body, headers=headers)
        answer.extensions["is_low"] = bool(headers)
        return answer

    answers = together(server, 48, post)
    refused = [answer.extensions["is_low"] for answer in answers if answer.status_code == 429]
    assert refused
    assert all(refused)


def test_every_answer_under_overload_is_right_or_says_why_there_is_none(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Any
) -> None:
    release = build_release(tmp_path, seed=73, num_items=1000)
    release.promote()
    server = start_server(tmp_path)
    server.wait_ready()
    # Sixteen such requests take twice their budget in full.
    body = {"user_id": "user-1", "candidate_ids": release.item_ids, "budget_ms": 8}
    full = release.scores("user-1", release.item_ids)
    pooled, maxsim = (calibrated(release, level, "user-1") for level in ("pooled", "maxsim"))
    counts: Counter[str] = Counter()
    for _ in range(10):
        for answer in together(server, 16, lambda client: client.post("/v1/score", json=body)):
            if answer.status_code != 200:
                counts[answer.json()["error_type"]] += 1
                continue
            content = answer.json()
            scores, degraded = np.array(content["scores"]), content["degraded"]
            counts["ok"] += 1
            counts[degraded["level"] if degraded else "full"] += 1
            if degraded is None:
                np.testing.assert_allclose(scores, full, atol=ATOL)
            elif degraded["share"]:
                # The best by maxsim, or where the work was cut short the first; equal rows are in either order.
                assert (np.abs(scores - full) < ATOL).sum() >= round(degraded["share"] * len(full))
            else:
                np.testing.assert_allclose(scores, {"pooled": pooled, "maxsim": maxsim}[degraded["level"]], atol=ATOL)
    assert set(counts) <= {"ok", "full", "full_best", "maxsim", "pooled", "shed", "deadline_exceeded"}
    assert counts["ok"] > 0
    assert counts["full"] < 160
    for outcome in ("ok", "shed", "deadline_exceeded"):
        assert server.metric("ranktower_request_duration_seconds_count", outcome=outcome) == counts[outcome]
    for level in ("full_best", "maxsim", "pooled"):
        assert server.metric("ranktower_degraded_total", level=level) == counts[level]
    assert server.metric("ranktower_shed_total") == counts["shed"]
    # It is over as soon as nobody asks any more.
    assert server.score("user-1", [1], budget_ms=5000).json()["degraded"] is None


def test_a_client_that_leaves_while_it_waits_costs_nothing(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent)
    server.wait_ready()
    ids = (release.item_ids * 40)[:LONG]
    content = json.dumps({"user_id": "user-1", "candidate_ids": ids}).encode()
    head = f"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    address = ("127.0.0.1", urlsplit(server.url).port)
    leaving = [socket.create_connection(address) for _ in range(12)]
    for connection in leaving:
        connection.sendall(head + content)
    for connection in leaving:
        connection.close()
    assert server.score("user-1", [1]).status_code == 200
    name = "ranktower_request_duration_seconds_count"

    def all_ended() -> bool:
        return server.metric(name, endpoint="score", outcome="client_gone") + server.metric(name, outcome="ok") == 13

    server.wait_until(all_ended, "rid of the requests without a client")
    assert server.metric(name, endpoint="score", outcome="client_gone") > 0
