"""``GET /metrics``: the names, the labels, and what they count."""

from __future__ import annotations

import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

NAMES = {
    "ranktower_request_duration_seconds": {"endpoint", "outcome", "le"},
    "ranktower_stage_duration_seconds": {"stage", "le"},
    "ranktower_budget_used_ratio": {"endpoint", "le"},
    "ranktower_candidates": {"le"},
    "ranktower_missing": {"side"},
    "ranktower_computed": {"side"},
    "ranktower_degraded": {"level", "reason"},
    "ranktower_shed": {"reason", "priority", "endpoint"},
    "ranktower_shed_duration_seconds": {"le"},
    "ranktower_store_errors": {"kind"},
    "ranktower_nonfinite_scores": set(),
    "ranktower_release_refused": {"reason", "role"},
    "ranktower_release_info": {"model", "release", "role"},
    "ranktower_scorer_engine": {"engine", "role"},
    "ranktower_native_refused": {"reason"},
    "ranktower_answers": {"role", "priority"},
    "ranktower_shadow_answers": {"outcome"},
    "ranktower_shadow_overlap": {"le"},
    "ranktower_shadow_rank_correlation": {"le"},
    "ranktower_shadow_score_drift": {"le"},
    "ranktower_shadow_score_difference": {"le"},
    "ranktower_release_age_seconds": set(),
    "ranktower_delta_timestamp_seconds": set(),
    "ranktower_overlay_rows": {"side"},
    "ranktower_overlay_refused": set(),
    "ranktower_workers": set(),
    "ranktower_start_time_seconds": set(),
    "ranktower_build_info": {"version"},
    "ranktower_memory_bytes": set(),
    "ranktower_cpu_seconds": set(),
}


def families(server: Any) -> dict[str, Any]:
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name: family for family in text_string_to_metric_families(answer.text)}
    return {name: family for name, family in found.items() if not name.endswith("_created")}


def test_the_names_and_labels_are_those_of_the_design(server: Any) -> None:
    server.score("user-1", [1])
    found = families(server)
    assert found.keys() == NAMES.keys()
    for name, family in found.items():
        for sample in family.samples:
            assert sample.labels.keys() <= NAMES[name], name


def test_buckets_begin_at_a_quarter_of_a_millisecond(server: Any) -> None:
    server.score("user-1", [1])
    samples = families(server)["ranktower_request_duration_seconds"].samples
    edges = {float(sample.labels["le"]) for sample in samples if "le" in sample.labels}
    assert min(edges) == 0.00025
    assert {0.010, 0.020} <= edges
    assert max(edges) == float("inf")


def test_of_answers_with_a_budget_the_part_used_is_counted(server: Any) -> None:
    """Of those with scores: not without a budget, and not where the answer is an error."""
    name = "ranktower_budget_used_ratio"

    def counts() -> tuple[float, ...]:
        of_score = (server.metric(f"{name}_{part}", endpoint="score") for part in ("count", "sum"))
        return *of_score, server.metric(f"{name}_bucket", endpoint="score", le="0.1")

    before = counts()
    server.score("user-1", [1])
    server.score("user-1", [1.5], budget_ms=50_000)
    assert counts() == before
    took_ms = server.score("user-1", list(range(300)), budget_ms=50_000).json()["took_ms"]
    count, total, tenth = (after - was for after, was in zip(counts(), before, strict=True))
    assert (count, tenth) == (1, 1)
    assert took_ms / 50_000 < total < 0.1
    server.client.post(
        "/v1/score",
        json={"user_id": "user-1", "candidate_ids": [1]},
        headers={"x-envoy-expected-rq-timeout-ms": "50000"},
    )
    assert counts()[0] == before[0] + 2


def test_counts_of_one_request(server: Any) -> None:
    def counts() -> list[float]:
        return [
            server.metric("ranktower_candidates_count"),
            server.metric("ranktower_candidates_sum"),
            server.metric("ranktower_missing_total", side="item"),
            server.metric("ranktower_missing_total", side="user"),
            *(
                server.metric("ranktower_stage_duration_seconds_count", stage=stage)
                for stage in ("queue", "parse", "fetch", "score", "serialize")
            ),
        ]

    before = counts()
    server.score("nobody", [1, 2, "x", "y", 3])
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [1, 5, 2, 1, 1, 1, 1, 1, 1]


def test_answers_are_counted_by_priority(server: Any) -> None:
    """Which a header gives, or the Open Inference Protocol's own parameter."""

    def counts() -> list[float]:
        return [server.metric("ranktower_answers_total", priority=priority) for priority in ("normal", "low")]

    before, low = counts(), {"x-ranktower-priority": "low"}
    server.score("user-1", [1])
    for path in ("/v1/score", "/v1/rank", "/v1/explain"):  # an explanation is no answer with scores
        server.client.post(path, json={"user_id": "user-1", "candidate_ids": [1]}, headers=low)
    tensor = {"shape": [1], "datatype": "BYTES"}
    inputs = [{"name": "user_id", "data": ["u"], **tensor}, {"name": "candidate_ids", "data": ["1"], **tensor}]
    answer = server.client.post("/v2/models/demo/infer", json={"inputs": inputs, "parameters": {"priority": 2}})
    assert answer.status_code == 200
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [1, 3]


def test_the_stages_add_up_to_no_more_than_the_request(server: Any) -> None:
    def times() -> tuple[float, float]:
        request = server.metric("ranktower_request_duration_seconds_sum", endpoint="score", outcome="ok")
        return request, server.metric("ranktower_stage_duration_seconds_sum")

    before = times()
    for _ in range(5):
        server.score("user-1", list(range(300)))
    request, stages = (after - was for after, was in zip(times(), before, strict=True))
    assert 0.3 * request < stages <= request


def test_the_release_and_its_age(server: Any, release: Any) -> None:
    found = families(server)
    (info,) = found["ranktower_release_info"].samples
    assert (info.value, info.labels) == (1, {"model": "demo", "release": release.release, "role": "current"})
    (age,) = found["ranktower_release_age_seconds"].samples
    assert age.value > 0


def test_no_id_is_ever_a_label(server: Any) -> None:
    server.score("user-very-private", ["item-very-private"])
    server.client.post("/v1/score/user-very-private")
    text = server.client.get("/metrics").text
    assert "private" not in text
    assert not re.search(r'"user-\d', text)
