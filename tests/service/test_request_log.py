"""Lines about requests: which get one, what is in it, what never is, and how many there are at most."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.context import Endpoint, RequestContext, Served
from service.request_log import RequestLog, line_fields
from service.settings import LogSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"


def lines_of(server: Any) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line["logger"] == "service.request_log"]


def test_a_slow_request_says_where_its_time_went(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, LOG__SLOW_MS="0.001")
    server.wait_ready(release.release)
    answer = server.client.post(
        "/v1/score",
        json={"user_id": "nobody", "candidate_ids": [1, 2, "none"]},
        headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"},
    ).json()
    server.score("user-1", [1.5])
    assert server.stop() == 0
    slow, refused = lines_of(server)
    assert (slow.pop("level"), slow.pop("message")) == ("warning", "slow request")
    stages, took_ms = slow.pop("stages_ms"), slow.pop("took_ms")
    assert list(stages) == ["queue", "parse", "fetch", "score", "serialize"]
    assert all(ms >= 0 for ms in stages.values())
    assert sum(stages.values()) <= took_ms + 0.01
    assert took_ms >= answer["took_ms"] - 0.01
    del slow["time"], slow["logger"]
    assert slow == {
        "request_id": answer["request_id"],
        "trace_id": TRACE,
        "endpoint": "score",
        "outcome": "ok",
        "status": 200,
        "release": release.release,
        "scored": "full",
        "num_candidates": 3,
        "num_missing": 1,
        "user": "FALLBACK",
    }
    assert (refused["outcome"], refused["status"]) == ("malformed", 422)
    assert "release" not in refused


def test_a_degraded_answer_names_its_level(release: Any, start_server: Callable[..., Any]) -> None:
    # So much of the budget is kept back that none is left to plan with.
    server = start_server(
        release.folder.parent.parent, LOG__SAMPLE="1", LOG__SLOW_MS="60000", BUDGET__MARGIN="0.999999"
    )
    server.wait_ready(release.release)
    degraded = server.score("user-1", [1, 2], budget_ms=5000).json()["degraded"]
    assert server.stop() == 0
    (line,) = lines_of(server)
    assert (line["level"], line["message"]) == ("info", "request")
    assert (line["scored"], line["degraded_reason"]) == (degraded["level"], degraded["reason"]) == ("pooled", "budget")


def test_no_body_key_or_id_is_in_the_log(release: Any, start_server: Callable[..., Any]) -> None:
    """Every field of a request and its headers is a word that the whole log must not have, whatever becomes of it."""
    key = "canary-of-the-key-0123456789"
    server = start_server(
        release.folder.parent.parent, AUTH__API_KEY=key, LOG__SAMPLE="1", LOG__MAX_LINES_PER_S="1000", LOG__SLOW_MS="1"
    )
    server.wait_ready(release.release)
    headers = {
        "authorization": f"Bearer {key}",
        "cookie": "a=canary-cookie",
        "user-agent": "canary-agent",
        "host": "canary-host",
        "tracestate": "canary state",
        "traceparent": "canary-parent",
        "x-envoy-expected-rq-timeout-ms": "canary-budget",
        "x-forwarded-for": "canary-for",
        "x-ranktower-priority": "canary-priority",
        "x-request-id": '"canary" request',
    }
    features = {"country": "canary-country", "tags": ["canary-tag"]}
    good = {"user_id": "canary-user", "candidate_ids": ["canary-item"], "user_features": features}
    bad: list[Any] = [{**good, name: {"canary": "canary"}} for name in (*good, "budget_ms", "canary_field")]
    bad += ["canary", {**good, "user_features": {"canary-feature": "canary"}}]
    server.client.post("/v2/models/canary-model/infer", json=good, headers=headers)
    for path in ("/v1/score", "/v1/rank", "/v1/explain"):
        statuses = [server.client.post(f"{path}?canary=canary", json=good, headers=headers).status_code]
        statuses += [server.client.post(path, json=body, headers=headers).status_code for body in bad]
        assert statuses == [200] + [422] * len(bad)
        server.client.post(path, content=b'{"canary', headers=headers)
        server.client.post(path, json=good, headers={"x-api-key": "canary-wrong"})
    server.client.post("/canary-path", json=good, headers=headers)
    server.client.request("CANARY", "/v1/score", headers=headers)
    assert server.stop() == 0
    assert len(lines_of(server)) >= 3 * (len(bad) + 3)
    assert "canary" not in server.log.read_text(encoding="utf-8")


def test_the_page_shows_all_fields_of_a_line() -> None:
    page = (Path(__file__).parents[2] / "docs/tracing-and-logs.md").read_text(encoding="utf-8")
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    one = served(200)
    for name in ("release", "level", "degraded_reason", "user"):
        setattr(one.context, name, shown["scored" if name == "level" else name])
    one.context.num_candidates, one.context.num_missing, one.context.trace_id = 3000, 2, TRACE
    assert list(shown) == ["time", "level", "logger", "message", *line_fields(one, 200, 0.1)]


def served(status: int | None, took_s: float = 0.0) -> Served:
    context = RequestContext({}, {})
    context.status = status
    return Served(context, Endpoint("score", "/v1/score"), "POST", context.arrival + took_s)


def written(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (served(200), []),
        (served(422), []),
        (served(429), []),
        (served(200, 0.099), []),
        (served(200, 0.101), [("WARNING", "slow request")]),
        (served(429, 0.101), [("WARNING", "slow request")]),
        (served(500), [("WARNING", "request failed")]),
        (served(503), [("WARNING", "request failed")]),
        (served(504, 0.1), [("WARNING", "request failed")]),
        (served(None), [("WARNING", "request failed")]),
    ],
)
async def test_slow_and_failed_requests_get_a_line(
    one: Served, expected: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "service.request_log"):
        RequestLog(LogSettings()).observe(one)
    assert written(caplog) == expected


async def test_of_the_others_a_share_does(caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(LogSettings(sample=0.25, max_lines_per_s=10_000))
    with caplog.at_level(logging.INFO, "service.request_log"):
        for _ in range(4000):
            log.observe(served(200))
    # Six standard deviations around the mean.
    assert 836 <= len(caplog.records) <= 1164
    assert set(written(caplog)) == {("INFO", "request")}


async def test_what_the_level_hides_takes_no_place(caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(LogSettings(sample=1, max_lines_per_s=1))
    with caplog.at_level(logging.WARNING, "service.request_log"):
        for _ in range(10):
            log.observe(served(200))
        log.observe(served(500))
    assert written(caplog) == [("WARNING", "request failed")]


async def test_an_overload_gets_so_many_lines_a_second_and_one_that_counts_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RequestLog(LogSettings(max_lines_per_s=3))
    with caplog.at_level(logging.INFO, "service.request_log"):
        for _ in range(100):
            log.observe(served(504))
        assert written(caplog) == [("WARNING", "request failed")] * 3
        deadline = time.monotonic() + 30
        while len(caplog.records) == 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        last: Any = caplog.records[-1]
        assert (last.getMessage(), last.fields) == ("request lines suppressed", {"num_requests": 97})
        log.observe(served(504))
        assert len(caplog.records) == 5


def test_a_service_without_a_release_does_not_flood_its_log(tmp_path: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(tmp_path, LOG__MAX_LINES_PER_S="2")
    server.wait_not_ready("no_release")
    began = time.monotonic()
    for _ in range(50):
        assert server.score(1, [1]).status_code == 503
    server.wait_until(lambda: '"request lines suppressed"' in server.log.read_text(), "counted")
    most = 2 * (time.monotonic() - began + 1)
    assert server.stop() == 0
    failed = [line for line in lines_of(server) if line["message"] == "request failed"]
    assert 2 <= len(failed) <= most
    assert failed[0]["outcome"] == "no_release"
