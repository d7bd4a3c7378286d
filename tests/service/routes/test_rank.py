"""POST /v1/rank on a running server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranktower.registry import Registry
from ranktower.release import read_manifest, write_manifest
from ranktower.verification import hash_files

ATOL = 4e-5


def rank(server: Any, **body: object) -> Any:
    return server.client.post("/v1/rank", json={"user_id": "user-2"} | body)


def test_the_candidates_best_first(server: Any, release: Any) -> None:
    candidates = list(range(50))
    body = rank(server, candidate_ids=candidates).json()
    assert list(body) == ["request_id", "release", "user", "items", "missing", "degraded", "took_ms"]
    assert body["release"] == release.release
    assert (body["user"], body["missing"], body["degraded"]) == ("PRESENT", [], None)
    scores = release.scores("user-2", candidates)
    assert sorted(item["id"] for item in body["items"]) == candidates
    assert [item["rank"] for item in body["items"]] == list(range(1, 51))
    np.testing.assert_allclose([item["score"] for item in body["items"]], np.sort(scores)[::-1], atol=ATOL)
    for item in body["items"]:
        assert item["score"] == pytest.approx(scores[item["id"]], abs=ATOL)


def test_rank_and_score_say_the_same_number(server: Any) -> None:
    scores = server.score("user-2", [3, 1, 2]).json()["scores"]
    ranked = {item["id"]: item["score"] for item in rank(server, candidate_ids=[3, 1, 2]).json()["items"]}
    assert [ranked[item] for item in (3, 1, 2)] == scores


@pytest.mark.parametrize("top_k", [1, 7, 50, 51, 10_000])
def test_top_k_is_the_head_of_the_whole(server: Any, top_k: int) -> None:
    whole = rank(server, candidate_ids=list(range(50))).json()["items"]
    assert rank(server, candidate_ids=list(range(50)), top_k=top_k).json()["items"] == whole[:top_k]


def test_ids_come_back_as_they_were_given(server: Any) -> None:
    items = rank(server, candidate_ids=[1, "2", "ключ-ß-鍵", 'a "quoted" id']).json()["items"]
    assert {str(item["id"]): item["id"] for item in items} == {
        "1": 1,
        "2": "2",
        "ключ-ß-鍵": "ключ-ß-鍵",
        'a "quoted" id': 'a "quoted" id',
    }


def test_equal_scores_keep_the_order_of_the_candidates(server: Any) -> None:
    items = rank(server, candidate_ids=["7", 7, 9, "7"]).json()["items"]
    sevens = [item["id"] for item in items if str(item["id"]) == "7"]
    assert sevens == ["7", 7, "7"]
    assert [item["rank"] for item in items] == [1, 2, 3, 4]


def test_what_is_not_stored_is_left_out_and_missing(server: Any) -> None:
    body = rank(server, candidate_ids=["nowhere", 1, "nobody", 2], top_k=3).json()
    assert {item["id"] for item in body["items"]} == {1, 2}
    assert body["missing"] == [0, 2]


def test_an_empty_list_is_not_a_missing_one(server: Any) -> None:
    body = rank(server, candidate_ids=[]).json()
    assert (body["items"], body["missing"]) == ([], [])


def nearest(release: Any, user: np.ndarray) -> list[str]:
    """All items by the mean cosine of the stored sub-space embeddings, nearest first."""

    def unit(embedding: np.ndarray) -> np.ndarray:
        return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)

    items = unit(release.arrays("item")[0].numpy())
    cosines = np.einsum("ud,nhd->nuh", unit(user), items).mean(axis=(1, 2))
    return [release.item_ids[row] for row in np.argsort(-cosines)]


def test_without_candidates_the_nearest_are_retrieved_and_ranked(server: Any, release: Any) -> None:
    user = release.user_ids.index("user-2")
    expected = nearest(release, release.arrays("user")[0][user].numpy())
    body = rank(server, num_candidates=100).json()
    found = [item["id"] for item in body["items"]]
    assert len(found) == len(set(found)) == 100
    # Neighbours at the border may change places: the index was built before the rows were rounded to fp16.
    assert len(set(found) & set(expected[:100])) >= 98
    assert all(isinstance(item, str) for item in found)
    np.testing.assert_allclose([item["score"] for item in body["items"]], release.scores("user-2", found), atol=ATOL)
    assert body["missing"] == []
    assert [item["score"] for item in body["items"]] == sorted((item["score"] for item in body["items"]), reverse=True)


def test_retrieved_and_cut_to_top_k(server: Any) -> None:
    whole = rank(server, num_candidates=100).json()["items"]
    assert rank(server, num_candidates=100, top_k=5).json()["items"] == whole[:5]


def test_more_than_there_is_retrieves_all(server: Any, release: Any) -> None:
    assert len(rank(server, num_candidates=10_000).json()["items"]) == len(release.item_ids)
    assert len(rank(server).json()["items"]) == len(release.item_ids)


@pytest.mark.parametrize(
    ("more", "state"), [({}, "FALLBACK"), ({"user_features": {"country": "us", "tags": ["d"]}}, "COMPUTED")]
)
def test_unknown_users_are_retrieved_for_too(server: Any, more: dict[str, object], state: str) -> None:
    body = rank(server, user_id="nobody", num_candidates=10, **more).json()
    assert body["user"] == state
    assert len(body["items"]) == 10


def test_wrong_features_are_refused(server: Any) -> None:
    answer = rank(server, num_candidates=10, user_features={"colour": 1})
    assert answer.status_code == 422
    assert "'colour'" in answer.json()["error"]


def test_the_budget_bounds_retrieval_too(server: Any) -> None:
    answer = rank(server, num_candidates=10, budget_ms=0.001)
    assert (answer.status_code, answer.json()["error_type"]) == (504, "deadline_exceeded")


def test_a_release_without_an_index_asks_for_candidates(
    release: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    folder = Registry(tmp_path).release_dir("demo", release.release)
    shutil.copytree(release.folder, folder)
    (folder / "items.faiss").unlink()
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": hash_files(folder)}))
    Registry(tmp_path).promote("demo", release.release)
    server = start_server(tmp_path)
    server.wait_ready()
    answer = rank(server, num_candidates=5)
    assert answer.status_code == 422
    assert answer.json()["error"] == "candidate_ids: required, because this release has no retrieval index"
    assert rank(server, candidate_ids=[1]).status_code == 200
    assert server.stop() == 0
