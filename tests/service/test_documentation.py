"""The OpenAPI document: checked in, equal to the application's, and true of what the server answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import service.errors
from service.metrics import Metrics
from service.openapi import openapi_text
from service.schemas import (
    ErrorBody,
    ExplainRequest,
    ExplainResponse,
    RankRequest,
    RankResponse,
    ReleaseResponse,
    ScoreRequest,
    ScoreResponse,
)
from service.settings import Settings

NEW = {"item_features": {"new": {"shelf": 3}}}
MORE = {"freshness": True, **NEW}
FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_checked_in_document_is_the_applications() -> None:
    assert FILE.read_text(encoding="utf-8") == openapi_text(), "run: python -m service.openapi > docs/openapi.json"


def test_every_reference_and_every_parameter_of_a_path_is_defined() -> None:
    document = json.loads(FILE.read_text(encoding="utf-8"))
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert json.dumps(document).count('"$ref"') == json.dumps(document).count('"$ref": "#/components/schemas/')
    assert references <= document["components"]["schemas"].keys()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            given = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))


def test_the_server_serves_the_same_document(server: Any) -> None:
    assert server.client.get("/openapi.json").json() == json.loads(FILE.read_text(encoding="utf-8"))


def test_every_endpoint_and_every_error_is_documented() -> None:
    paths = json.loads(FILE.read_text(encoding="utf-8"))["paths"]
    model = "/v2/models/{model}"
    inference = {
        f"{model}{version}{end}" for version in ("", "/versions/{version}") for end in ("", "/ready", "/infer")
    }
    scoring = {"/v1/score", "/v1/rank", "/v1/explain", f"{model}/infer", f"{model}/versions/{{version}}/infer"}
    others = {"/v1/release", "/livez", "/readyz", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"}
    assert paths.keys() == scoring | inference | others
    for path in scoring:
        own = {"501"} if path == "/v1/explain" else {"404"} if path in inference else set()
        statuses = set(paths[path]["post"]["responses"]) - own
        assert statuses == {"200", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"}
        assert paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]


def test_a_key_is_documented_where_the_server_asks_for_one(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY="correct-horse-battery")
    document = json.loads(FILE.read_text(encoding="utf-8"))
    assert document["components"]["securitySchemes"].keys() == {"api_key", "bearer"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = re.sub(r"{\w+}", "demo", path)
            asks = server.client.request(method, url).status_code == 401
            assert operation.get("security", []) == ([{"api_key": []}, {"bearer": []}, {}] if asks else []), path
    server.stop()


@pytest.mark.parametrize(
    ("path", "request_model", "response_model", "body"),
    [
        ("/v1/score", ScoreRequest, ScoreResponse, {"user_id": 1, "candidate_ids": [1, "2", "none"]}),
        ("/v1/score", ScoreRequest, ScoreResponse, {"user_id": "user-1", "candidate_ids": [], "budget_ms": 1000}),
        ("/v1/rank", RankRequest, RankResponse, {"user_id": 1, "top_k": 3, "num_candidates": 10}),
        ("/v1/rank", RankRequest, RankResponse, {"user_id": 1, "candidate_ids": [5, "6"], "user_features": {}}),
        ("/v1/score", ScoreRequest, ScoreResponse, {"user_id": 1, "candidate_ids": [1, "new", "none"]} | MORE),
        ("/v1/rank", RankRequest, RankResponse, {"user_id": 1, "candidate_ids": [1, "new", "none"]} | MORE),
        ("/v1/explain", ExplainRequest, ExplainResponse, {"user_id": 1, "candidate_ids": [1, "none"]}),
        ("/v1/explain", ExplainRequest, ExplainResponse, {"user_id": 1, "candidate_ids": ["new"], **NEW}),
    ],
)
def test_requests_and_answers_are_as_documented(
    server: Any, path: str, request_model: type[BaseModel], response_model: type[BaseModel], body: dict[str, object]
) -> None:
    request_model.model_validate(body)
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200
    # Some fields are there only where the request asks for them.
    asked = {"item_features": "computed", "freshness": "ages_s"}
    absent = {field for field in asked.values() if field not in answer.json()}
    assert not absent & {asked[key] for key in body if key in asked} - ({"ages_s"} if path == "/v1/rank" else set())
    assert response_model.model_validate(answer.json()).model_dump(mode="json").keys() - absent == answer.json().keys()


def test_the_documented_schema_refuses_what_the_server_refuses(server: Any) -> None:
    for body in ({"user_id": 1}, {"user_id": 1.5, "candidate_ids": []}, {"user_id": 1, "candidate_ids": [], "x": 1}):
        with pytest.raises(ValidationError):
            ScoreRequest.model_validate(body)
        answer = server.client.post("/v1/score", json=body)
        assert answer.status_code == 422
        ErrorBody.model_validate(answer.json())


def test_the_release_is_as_documented(server: Any) -> None:
    body = server.client.get("/v1/release").json()
    assert ReleaseResponse.model_validate(body).model_dump(mode="json").keys() == body.keys()


def test_every_setting_stands_in_the_documentation() -> None:
    text = (FILE.parent / "api.md").read_text(encoding="utf-8")
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert model is not None
        for key in model.model_fields:
            assert f"`{section}.{key}`" in text


def test_every_metric_and_every_error_type_stands_in_the_documentation() -> None:
    text = (FILE.parent / "api.md").read_text(encoding="utf-8")
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}" in text, name
    for value in vars(service.errors).values():
        if isinstance(value, type) and issubclass(value, service.errors.ServiceError):
            assert f"`{value.error_type}`" in text
