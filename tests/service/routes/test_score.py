"""POST /v1/score on a running server, against torch's scores of the stored rows."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ranktower.data.encoder import EncodedFeatures
from ranktower.training.tensors import side_features

# fp32 in two runtimes, on logits (the cosine sum over tau = 0.25): 1e-5 on the cosine-sum scale.
ATOL = 4e-5


def test_scores_are_torchs_scores_of_the_stored_rows_in_the_order_of_the_candidates(server: Any, release: Any) -> None:
    candidates = [str(number) for number in random.Random(1).sample(range(300), 100)]
    answer = server.score("user-3", candidates)
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["request_id", "release", "user", "scores", "missing", "degraded", "took_ms"]
    assert body["release"] == release.release
    assert body["user"] == "PRESENT"
    assert body["missing"] == []
    assert body["degraded"] is None
    assert 0 < body["took_ms"] < 10_000
    np.testing.assert_allclose(body["scores"], release.scores("user-3", candidates), atol=ATOL)


def test_users_get_scores_of_their_own(server: Any, release: Any) -> None:
    answers = [server.score(user, [1, 2, 3]).json()["scores"] for user in ("user-1", "user-2")]
    assert answers[0] != answers[1]
    np.testing.assert_allclose(answers[1], release.scores("user-2", [1, 2, 3]), atol=ATOL)


def test_an_unknown_candidate_is_null_and_its_index_is_missing(server: Any, release: Any) -> None:
    body = server.score("user-1", ["nobody", 1, 999_999, 2]).json()
    assert [score is None for score in body["scores"]] == [True, False, True, False]
    assert body["missing"] == [0, 2]
    np.testing.assert_allclose(
        [score for score in body["scores"] if score is not None], release.scores("user-1", [1, 2]), atol=ATOL
    )


def test_only_unknown_candidates(server: Any) -> None:
    body = server.score("user-1", ["nobody", "no one"]).json()
    assert body["scores"] == [None, None]
    assert body["missing"] == [0, 1]


def test_an_empty_list_gets_an_empty_answer(server: Any) -> None:
    answer = server.score("user-1", [])
    assert answer.status_code == 200
    assert answer.json()["scores"] == []
    assert answer.json()["missing"] == []
    assert answer.json()["user"] == "PRESENT"


def test_each_duplicate_gets_its_score(server: Any, release: Any) -> None:
    body = server.score("user-1", [5, 7, 5, 5]).json()
    expected = release.scores("user-1", [5, 7])
    np.testing.assert_allclose(body["scores"], expected[[0, 1, 0, 0]], atol=ATOL)
    assert len({body["scores"][index] for index in (0, 2, 3)}) == 1


def test_numbers_and_strings_are_one_id(server: Any) -> None:
    as_numbers = server.score("user-1", [1, 2, 3]).json()["scores"]
    assert server.score("user-1", ["1", "2", "3"]).json()["scores"] == as_numbers
    assert server.score("user-1", [1, "2", 3]).json()["scores"] == as_numbers


@pytest.mark.parametrize("other", ["01", " 1", "1 ", "+1", "1.0", "１", "-1", "1\u0000", "\u00001", "", "1\n"])
def test_what_only_looks_like_an_id_is_another_one(server: Any, other: str) -> None:
    body = server.score("user-1", [other, 1]).json()
    assert body["missing"] == [0]
    assert body["scores"][0] is None


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, -(2**63), -1, 0])
def test_the_largest_integers_are_ids_like_others(server: Any, number: int) -> None:
    body = server.score(number, [number, 1]).json()
    assert body["missing"] == ([] if number == 0 else [0])
    assert body["user"] == "FALLBACK"


def test_ids_with_quotes_newlines_backslashes_and_other_scripts(server: Any, release: Any) -> None:
    odd = [item for item in release.item_ids if not item.isdigit() or item == "007"]
    assert len(odd) == 10
    body = server.score("user-1", odd).json()
    assert body["missing"] == []
    np.testing.assert_allclose(body["scores"], release.scores("user-1", odd), atol=ATOL)


def test_an_escaped_id_is_the_id_it_spells(server: Any, release: Any) -> None:
    content = (
        b'{"user_id": "\\u0075ser-1", "candidate_ids": ["\\u043a\\u043b\\u044e\\u0447-\\u00df-\\u9375", "\\u0031"]}'
    )
    body = server.client.post("/v1/score", content=content).json()
    assert body["user"] == "PRESENT"
    np.testing.assert_allclose(body["scores"], release.scores("user-1", ["ключ-ß-鍵", "1"]), atol=ATOL)


@pytest.mark.parametrize("length", [257, 100_000])
def test_a_very_long_id_is_unknown_like_any_other(server: Any, length: int) -> None:
    body = server.score("u" * length, ["x" * 256, "x" * length, 1]).json()
    assert body["missing"] == [1]
    assert body["user"] == "FALLBACK"


def test_an_unknown_user_gets_the_fallback_users_scores(server: Any, release: Any) -> None:
    body = server.score("nobody", [1, 2, 3]).json()
    assert body["user"] == "FALLBACK"
    raw = np.frombuffer((release.folder / "fallback_user.bin").read_bytes()[8:], dtype="<f2").astype(np.float32)
    with torch.no_grad():
        user = release.blueprint.model.cross_attention.project_users(torch.from_numpy(raw.reshape(1, 4, 32).copy()))
    np.testing.assert_allclose(body["scores"], release.scores_for(tuple(user), [1, 2, 3]), atol=ATOL)


def computed_user(release: Any) -> tuple[torch.Tensor, ...]:
    """Country "fr" is code 2; age 33 lies in the third of four bins; tags c, a are codes 3, 1. Rounded to float16, as
    every stored user of this release."""
    encoded = EncodedFeatures(
        codes=np.array([[2, 3]], dtype=np.int32),
        bags={"tags": np.array([[3, 1, 0]], dtype=np.int32)},
        lengths={"tags": np.array([2], dtype=np.int32)},
    )
    model = release.blueprint.model
    with torch.no_grad():
        return tuple(model.cross_attention.project_users(model.encode_users(side_features(encoded))[0].half().float()))


FEATURES = {"country": "fr", "age": 33, "tags": ["c", "a"]}


def test_an_unknown_user_with_features_is_computed_by_the_tower(server: Any, release: Any) -> None:
    body = server.score("nobody", [1, 2, 3], user_features=FEATURES).json()
    assert body["user"] == "COMPUTED"
    np.testing.assert_allclose(body["scores"], release.scores_for(computed_user(release), [1, 2, 3]), atol=ATOL)


def test_a_stored_row_wins_over_features(server: Any, release: Any) -> None:
    body = server.score("user-1", [1, 2, 3], user_features=FEATURES).json()
    assert body["user"] == "PRESENT"
    np.testing.assert_allclose(body["scores"], release.scores("user-1", [1, 2, 3]), atol=ATOL)


def test_empty_features_are_features_all_missing(server: Any) -> None:
    assert server.score("nobody", [1], user_features={}).json()["user"] == "COMPUTED"
    assert server.score("nobody", [1], user_features=None).json()["user"] == "FALLBACK"


@pytest.mark.parametrize("user", ["user-1", "nobody"])
@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"colour": "red"}, "'colour'"),
        ({"country": ["de"]}, "'country'"),
        ({"age": "33"}, "'age'"),
        ({"age": True}, "'age'"),
        ({"tags": "a"}, "'tags'"),
        ({"tags": [["a"]]}, "'tags'"),
    ],
)
def test_wrong_features_are_refused_whether_they_are_needed_or_not(
    server: Any, user: str, features: object, text: str
) -> None:
    answer = server.score(user, [1], user_features=features)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "malformed"
    assert answer.json()["error"].startswith("user_features: ")
    assert text in answer.json()["error"]


def test_the_largest_request(server: Any, release: Any) -> None:
    candidates = [number % 300 for number in range(10_000)]
    body = server.score("user-1", candidates).json()
    assert body["missing"] == []
    expected = np.tile(release.scores("user-1", list(range(300))), 34)[:10_000]
    np.testing.assert_allclose(body["scores"], expected, atol=ATOL)


def test_a_number_in_an_answer_is_the_float32_that_was_computed(server: Any) -> None:
    answer = server.score("user-1", [1, 2, 3])
    written = json.loads(answer.text, parse_float=str)["scores"]
    assert all(str(np.float32(text)) == text for text in written)


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/json; charset=latin-1"])
def test_the_body_is_json_in_utf8_whatever_its_content_type(server: Any, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = server.client.post("/v1/score", content='{"user_id": "ß", "candidate_ids": [1]}'.encode(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("budget_ms", "header", "status"),
    [
        (0.001, None, 504),
        (60_000, None, 200),
        (None, "1", 504),
        (60_000, "1", 504),
        (0.001, "60000", 504),
        (60_000, "60000", 200),
        (60_000, "soon", 200),
        (60_000, "-1", 200),
        (60_000, "0", 200),
        (60_000, "1e-9", 200),
        (60_000, "9" * 400, 200),
    ],
)
def test_the_smaller_budget_holds(server: Any, budget_ms: float | None, header: str | None, status: int) -> None:
    content = json.dumps({"user_id": 1, "candidate_ids": list(range(10)), "budget_ms": budget_ms}).encode()

    def slowly() -> Iterator[bytes]:
        """The body ends 20 ms after the head came, from which the budget counts: no server is too fast for 1 ms."""
        yield content[:10]
        time.sleep(0.02)
        yield content[10:]

    headers = {"x-envoy-expected-rq-timeout-ms": header} if header else {}
    answer = server.client.post("/v1/score", content=slowly(), headers=headers)
    assert answer.status_code == status
    if status == 504:
        assert answer.json()["error_type"] == "deadline_exceeded"
