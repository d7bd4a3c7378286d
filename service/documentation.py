"""OpenAPI parts that FastAPI cannot see, because the hot endpoints read their bodies themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from service.budget import ENVOY_HEADER
from service.incoming import PRIORITY_HEADER
from service.schemas import ErrorBody

_STATUSES = {
    401: "No API key, where one is configured",
    403: "A wrong API key, or one that has expired",
    408: "The body did not arrive in time",
    413: "Too many candidates, or too many bytes",
    415: "A compressed body",
    422: "Malformed: not JSON, an unknown field, a wrong type or value",
    429: "Too much to do for another request in its time, or more requests than the API key may make; Retry-After says"
    " when to come again",
    500: "Internal error",
    503: "Not ready, or the embedding store does not answer",
    504: "Nothing was scored within the budget",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _STATUSES.items()
}
NOT_EXPLAINABLE: dict[int | str, dict[str, Any]] = {
    501: {"model": ErrorBody, "description": "The release was exported without what explains its scores"}
}
UNKNOWN_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "The model or the release is not served here"}
}

_HEADERS = {
    "x-request-id": "1 to 128 of A-Z a-z 0-9 . _ : / + = @ -; echoed in the answer. Another value is replaced.",
    ENVOY_HEADER.decode(): "A budget in whole milliseconds, as Envoy sends it.",
    PRIORITY_HEADER.decode(): "low: after all other requests, and the first to be refused. Another value says nothing.",
}


def request_body(model: type[BaseModel], example: Mapping[str, Any], *in_path: str) -> dict[str, Any]:
    """``openapi_extra`` of an endpoint that reads a ``model`` by hand, and the parameters ``in_path`` too."""
    schema = model.model_json_schema()
    schema = _without_references(schema, schema.pop("$defs", {}))
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": dict(example)}},
        },
        "parameters": path_parameters(*in_path)["parameters"]
        + [
            {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
    }


def document_keys(document: dict[str, Any], protected: tuple[str, ...]) -> None:
    """Add to an OpenAPI document that operations under the ``protected`` paths take an API key, in either form; or
    none, for a service that has no keys."""
    document["components"]["securitySchemes"] = {
        "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path, operations in document["paths"].items():
        if path.startswith(protected):
            for operation in operations.values():
                operation["security"] = [{"api_key": []}, {"bearer": []}, {}]


def path_parameters(*names: str) -> dict[str, Any]:
    """``openapi_extra`` of an endpoint that reads the parameters of its path by hand."""
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    }


def _without_references(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with its definitions in the places that refer to them: within the document they would be elsewhere."""
    if isinstance(schema, list):
        return [_without_references(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _without_references(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _without_references(value, definitions) for key, value in schema.items()}
