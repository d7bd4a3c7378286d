"""What a client can send wrong: each answered with one status, one body, and the field's name in the text."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

GOOD: dict[str, object] = {"user_id": "user-1", "candidate_ids": [1, 2]}


def assert_error(answer: Any, status: int, error_type: str, text: str) -> None:
    """The common body, and nothing of the inside in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error", "error_type", "request_id"]
    assert body["error_type"] == error_type
    assert text in body["error"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert len(body["error"]) < 1000
    for inside in ("Traceback", "site-packages", ".py", "orjson", "starlette"):
        assert inside not in answer.text


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/explain"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"user_id": 1, "candidate_ids": [1,', "not JSON"),
        (b'{"user_id": 1, "candidate_ids": [1]', "not JSON"),
        (b'{"user_id": 1, "candidate_ids": [1]} x', "not JSON"),
        (b"{'user_id': 1}", "not JSON"),
        (b'{"user_id": "\xff\xfe", "candidate_ids": [1]}', "not JSON"),
        ('{"user_id": "ß", "candidate_ids": [1]}'.encode("latin-1"), "not JSON"),
        ('{"user_id": 1, "candidate_ids": [1]}'.encode("utf-16"), "not JSON"),
        (b'\xef\xbb\xbf{"user_id": 1, "candidate_ids": [1]}', "not JSON"),
        (b'{"user_id": "\\ud800", "candidate_ids": [1]}', "not JSON"),
        (b'{"user_id": 1, "candidate_ids": [1], "budget_ms": NaN}', "not JSON"),
        (b'{"user_id": 1, "candidate_ids": [1], "budget_ms": Infinity}', "not JSON"),
        (b'{"user_id": "raw\nnewline", "candidate_ids": [1]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\x00" * 1000, "not JSON"),
        (b"null", "must be a JSON object, not null"),
        (b"[]", "must be a JSON object, not a list"),
        (b'"text"', "must be a JSON object, not a string"),
        (b"12", "must be a JSON object, not an integer"),
    ],
)
def test_a_body_that_is_no_json_object(server: Any, path: str, content: bytes, text: str) -> None:
    assert_error(server.client.post(path, content=content), 422, "malformed", text)


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/explain"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"user": 1}, '"user": unknown field; known are'),
        ({"x" * 5000: 1}, "unknown field"),
        ({"": 1}, '"": unknown field'),
        ({"user_id": None}, "user_id: must be a string or an integer (of at most 64 bits), not null"),
        ({"user_id": 2**64}, "user_id: must be a string or an integer (of at most 64 bits)"),
        ({"user_id": 1.5}, "user_id: must be a string or an integer (of at most 64 bits), not a float"),
        ({"user_id": True}, "user_id: must be a string or an integer (of at most 64 bits), not a boolean"),
        ({"user_id": ["a"]}, "user_id: must be a string or an integer (of at most 64 bits), not a list"),
        ({"user_id": {"a": 1}}, "user_id: must be a string or an integer (of at most 64 bits), not an object"),
        ({"candidate_ids": "12"}, "candidate_ids: must be a list, not a string"),
        ({"candidate_ids": {"1": 1}}, "candidate_ids: must be a list, not an object"),
        ({"candidate_ids": 7}, "candidate_ids: must be a list, not an integer"),
        ({"candidate_ids": [1, None]}, "candidate_ids[1]: must be a string or an integer"),
        (
            {"candidate_ids": [1, 2, 3.0]},
            "candidate_ids[2]: must be a string or an integer (of at most 64 bits), not a",
        ),
        ({"candidate_ids": [True]}, "not a boolean"),
        ({"candidate_ids": [1, [2]]}, "candidate_ids[1]: must be a string or an integer (of at most 64 bits), not a l"),
        ({"candidate_ids": [{"id": 1}]}, "not an object"),
        ({"candidate_ids": [2**64]}, "candidate_ids[0]: must be a string or an integer (of at most 64 bits)"),
        ({"user_features": [1]}, "user_features: must be an object, not a list"),
        ({"user_features": "age=3"}, "user_features: must be an object, not a string"),
        ({"budget_ms": 0}, "budget_ms: must be a number above 0 and at most 60000, got 0"),
        ({"budget_ms": -5}, "budget_ms: must be a number above 0 and at most 60000, got -5"),
        ({"budget_ms": 60_001}, "got 60001"),
        ({"budget_ms": 10**19}, "budget_ms"),
        ({"budget_ms": 10**300}, "budget_ms"),
        ({"budget_ms": "20"}, 'got "20"'),
        ({"budget_ms": True}, "got true"),
        ({"budget_ms": [20]}, "got [20]"),
    ],
)
def test_a_field_that_is_wrong(server: Any, path: str, change: dict[str, object], text: str) -> None:
    assert_error(server.client.post(path, json=GOOD | change), 422, "malformed", text)


@pytest.mark.parametrize("missing", ["user_id", "candidate_ids"])
def test_a_field_that_is_missing(server: Any, missing: str) -> None:
    body = {key: value for key, value in GOOD.items() if key != missing}
    assert_error(server.client.post("/v1/score", json=body), 422, "malformed", f"{missing}: required")


@pytest.mark.parametrize("depth", [254, 255, 300, 1000])
@pytest.mark.parametrize("field", ["budget_ms", "freshness", "user_features", "item_features", "candidate_ids"])
def test_a_value_that_is_nested_more_deeply_than_json_is_written(server: Any, field: str, depth: int) -> None:
    content = json.dumps(GOOD)[:-1] + f', "{field}": ' + "[" * depth + "]" * depth + "}"
    assert_error(server.client.post("/v1/score", content=content), 422, "malformed", field)


@pytest.mark.parametrize("field", ["top_k", "num_candidates"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "2.0", "10001", "1" + "0" * 30, "1e300", '"5"', "true", "[1]"])
def test_a_count_that_is_wrong(server: Any, field: str, value: str) -> None:
    answer = server.client.post("/v1/rank", content=f'{{"user_id": 1, "{field}": {value}}}')
    assert_error(answer, 422, "malformed", f"{field}: must be an integer from 1 to 10000, got ")


@pytest.mark.parametrize("field", ["top_k", "budget_ms"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", "+1"])
def test_what_is_no_number_in_json(server: Any, field: str, value: str) -> None:
    content = f'{{"user_id": 1, "candidate_ids": [1], "{field}": {value}}}'
    assert_error(server.client.post("/v1/rank", content=content), 422, "malformed", "not JSON")


def test_num_candidates_beside_candidate_ids(server: Any) -> None:
    answer = server.client.post("/v1/rank", json=GOOD | {"num_candidates": 5})
    assert_error(answer, 422, "malformed", "num_candidates: says how many to retrieve")


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank"])
def test_one_candidate_too_many(server: Any, path: str) -> None:
    body = GOOD | {"candidate_ids": list(range(10_001))}
    answer = server.client.post(path, json=body)
    assert_error(answer, 413, "too_many_candidates", "candidate_ids: 10001 candidates, at most 10000")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "x-made-up", "gzip, identity"])
def test_a_compressed_body(server: Any, encoding: str) -> None:
    content = gzip.compress(json.dumps(GOOD).encode())
    answer = server.client.post("/v1/score", content=content, headers={"content-encoding": encoding})
    assert_error(answer, 415, "unsupported_content_encoding", "content-encoding: only uncompressed JSON")


def test_gzip_without_saying_so(server: Any) -> None:
    answer = server.client.post("/v1/score", content=gzip.compress(json.dumps(GOOD).encode()))
    assert_error(answer, 422, "malformed", "not JSON")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/score"),
        ("PUT", "/v1/rank"),
        ("GET", "/v1/explain"),
        ("DELETE", "/v1/release"),
        ("POST", "/readyz"),
        ("PATCH", "/metrics"),
    ],
)
def test_a_wrong_method(server: Any, method: str, path: str) -> None:
    answer = server.client.request(method, path)
    assert_error(answer, 405, "method_not_allowed", method)
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/score/", "/v2/score", "/%2e%2e/etc/passwd", "/v1/scores?a=1"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_path(server: Any, method: str, path: str) -> None:
    assert_error(server.client.request(method, path), 404, "not_found", "no such path")


def test_after_all_of_this_the_server_scores(server: Any) -> None:
    assert server.client.post("/v1/score", json=GOOD).status_code == 200
    assert server.metric("ranktower_request_duration_seconds_count", outcome="internal_error") == 0
