"""What infer requests of the Open Inference Protocol are refused with, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.inference_schemas import InferResponse

INFER = "/v2/models/demo/infer"


def body(candidates: int = 3, **parameters: object) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["user-1"]},
            {"name": "candidate_ids", "shape": [candidates], "datatype": "INT64", "data": list(range(candidates))},
        ],
        "parameters": parameters,
    }


def test_an_empty_list_gets_empty_outputs(server: Any) -> None:
    assert [output["data"] for output in server.client.post(INFER, json=body(0)).json()["outputs"]] == [[], []]


@pytest.mark.parametrize(
    ("sent", "path", "status", "error_type", "text"),
    [
        (
            body(10_001),
            INFER,
            413,
            "too_many_candidates",
            "candidate_ids: 10001 candidates, at most 10000 are accepted",
        ),
        (body(budget_ms=0.001), INFER, 504, "deadline_exceeded", "the budget was used up before anything was scored"),
        (body(timeout=1), INFER, 504, "deadline_exceeded", "the budget was used up before anything was scored"),
        (body(timeout=-1), INFER, 422, "malformed", "parameters.timeout: "),
        (body(), "/v2/models/other/infer", 404, "not_found", 'model: "other" is not served here, only "demo"'),
        (body(), "/v2/models/demo/versions/1/infer", 404, "not_found", 'version: "1" is not served, only 2026'),
        (body(), "/v2/models/demo/generate", 404, "not_found", "no such path"),
    ],
)
def test_errors_have_the_protocols_form(
    server: Any, sent: dict[str, Any], path: str, status: int, error_type: str, text: str
) -> None:
    found = server.client.post(path, json=sent, headers={"x-request-id": "r-2"})
    assert found.status_code == status
    assert found.json().keys() == {"error", "error_type", "request_id"}
    assert found.json()["error"].startswith(text)
    assert (found.json()["error_type"], found.json()["request_id"]) == (error_type, "r-2")


def test_a_degraded_answer_says_so_in_its_parameters(release: Any, start_server: Callable[..., Any]) -> None:
    # So much of the budget is kept back that none is left to plan with, yet the deadline itself is far.
    server = start_server(release.folder.parent.parent, BUDGET__MARGIN="0.999999")
    server.wait_ready()
    answer = server.client.post(INFER, json=body(budget_ms=5000)).json()
    InferResponse.model_validate(answer)
    said = server.score("user-1", [0, 1, 2], budget_ms=5000).json()
    assert said["degraded"]["level"] == "pooled"
    parameters = {name: value for name, value in answer["parameters"].items() if name.startswith("degraded")}
    assert parameters == {f"degraded_{name}": value for name, value in said["degraded"].items()}
    assert answer["outputs"][0]["data"] == said["scores"]
    server.stop()


def test_requests_are_measured_as_infer_whoever_refuses_them(server: Any, release: Any) -> None:
    def counted() -> list[float]:
        count = "ranktower_request_duration_seconds_count"
        return [
            server.metric(count, endpoint="infer", outcome="ok"),
            server.metric(count, endpoint="infer", outcome="malformed"),
            server.metric(count, endpoint="infer", outcome="not_found"),
            server.metric("ranktower_stage_duration_seconds_count", stage="serialize"),
            server.metric("ranktower_answers_total", role="current"),
        ]

    before = counted()
    assert server.client.post(INFER, json=body()).status_code == 200
    assert server.client.post(f"/v2/models/demo/versions/{release.release}/infer", json=body()).status_code == 200
    assert server.client.post(INFER, json={}).status_code == 422
    assert server.client.post("/v2/models/other/infer", json=body()).status_code == 404
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, 1, 1, 2, 2]


def test_a_request_without_a_key_is_measured_too(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY="correct-horse-battery")
    server.wait_ready()
    for path in (INFER, f"/v2/models/demo/versions/{release.release}/infer", "/v2/models/other/infer"):
        assert server.client.post(path, json=body()).status_code == 401
    assert server.client.get("/v2/models/demo").status_code == 401
    assert server.metric("ranktower_request_duration_seconds_count", endpoint="infer", outcome="unauthorized") == 3
    server.stop()
