"""Candidates and users that are not stored, computed from their features on a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ranktower.data.encoder import EncodedFeatures
from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.protocol import Rows
from ranktower.errors import DataError
from ranktower.training.tensors import side_features
from service.answering import Answering
from service.budget import Deadline
from service.cold_start import GivenFeatures
from service.context import RequestContext
from service.costs import CostLine, Costs
from service.errors import DeadlineExceededError, MalformedError
from service.metrics import Metrics
from service.parsing import ScoreQuery
from service.settings import OverloadSettings
from service.stores import Fetched
from service.tickets import Demand
from service.turns import Turns

ATOL = 4e-5
SHELF_5 = {"shelf": 5, "price": 3.5, "genres": ["x", "z"]}
SHELF_96 = {"shelf": "96", "price": 1000}
# By hand: the shelves are the numbers 0 to 96 and so code 1 + number; price 3.5 lies in the fourth bin, 1000 in the
# last of sixty; genres x, z are codes 1, 3.
ENCODED = EncodedFeatures(
    codes=np.array([[6, 4], [97, 60]], dtype=np.int32),
    bags={"genres": np.array([[1, 3], [0, 0]], dtype=np.int32)},
    lengths={"genres": np.array([2, 0], dtype=np.int32)},
)


def tower_scores(release: Any, user_id: str, *, projected: bool = True) -> NDArray[np.float32]:
    """Torch's scores of SHELF_5 and SHELF_96 for a stored user, their rows rounded as a store rounds them."""
    dtype = torch.float16 if release.manifest.row_dtype == "float16" else torch.float32
    model = release.blueprint.model
    with torch.no_grad():
        arrays = [array.to(dtype).float() for array in model.encode_items(side_features(ENCODED))]
        items = arrays if projected else model.cross_attention.project_items(arrays[0])
        place = release.user_ids.index(user_id)
        user = tuple(array[place : place + 1] for array in release.arrays("user"))
        scores: NDArray[np.float32] = model.score_pairs(user, tuple(array[None] for array in items))[0].numpy()
    return scores


def test_computed_candidates_get_torchs_scores_of_the_towers_rows(server: Any, release: Any) -> None:
    body = server.score("user-3", ["new", 1, "other", "nobody"], item_features={"other": SHELF_96, "new": SHELF_5})
    body = body.json()
    names = ["request_id", "release", "user", "scores", "missing", "computed", "degraded", "took_ms"]
    assert list(body) == names
    assert (body["missing"], body["computed"]) == ([3], [0, 2])
    expected = tower_scores(release, "user-3")
    np.testing.assert_allclose([body["scores"][0], body["scores"][2]], expected, atol=ATOL)
    np.testing.assert_allclose(body["scores"][1], release.scores("user-3", [1])[0], atol=ATOL)


def test_a_computed_candidate_is_ranked_among_the_stored(server: Any, release: Any) -> None:
    candidates = [*range(20), "new"]
    body = {"user_id": "user-3", "candidate_ids": candidates, "item_features": {"new": SHELF_5}}
    answer = server.client.post("/v1/rank", json=body).json()
    assert (answer["missing"], answer["computed"]) == ([], [20])
    scores = [*release.scores("user-3", list(range(20))), tower_scores(release, "user-3")[0]]
    best_first = [candidates[index] for index in np.argsort(-np.array(scores), kind="stable")]
    assert [item["id"] for item in answer["items"]] == best_first


def test_a_stored_row_wins_and_features_of_no_candidate_are_not_used(server: Any, release: Any) -> None:
    body = server.score("user-1", [1, 2], item_features={"1": SHELF_5, "elsewhere": SHELF_96}).json()
    assert body["computed"] == []
    np.testing.assert_allclose(body["scores"], release.scores("user-1", [1, 2]), atol=ATOL)


@pytest.mark.parametrize(("candidate", "is_the_id"), [(5000, True), ("5000", True), ("05000", False), ("5e3", False)])
def test_features_belong_to_the_canonical_id(server: Any, candidate: object, is_the_id: bool) -> None:
    body = server.score("user-1", [candidate], item_features={"5000": SHELF_5}).json()
    assert (body["computed"], body["missing"]) == (([0], []) if is_the_id else ([], [0]))


def test_each_duplicate_of_a_computed_candidate_gets_its_score(server: Any, release: Any) -> None:
    body = server.score("user-3", ["5000", 1, 5000, "other"], item_features={"other": SHELF_96, "5000": SHELF_5}).json()
    assert body["computed"] == [0, 2, 3]
    expected = tower_scores(release, "user-3")
    np.testing.assert_allclose(np.array(body["scores"])[[0, 2, 3]], expected[[0, 0, 1]], atol=ATOL)


@pytest.mark.parametrize("given", [{}, {"new": {}}])
def test_features_may_be_none_or_all_missing(server: Any, given: dict[str, object]) -> None:
    body = server.score("user-1", ["new"], item_features=given).json()
    assert body["computed"] == list(range(len(given)))
    assert (body["scores"][0] is None) == (not given)


def test_no_features_no_field(server: Any) -> None:
    assert "computed" not in server.score("user-1", [1], item_features=None).json()
    assert server.score("user-1", [], item_features={"x": SHELF_5}).json()["computed"] == []


def test_as_many_as_are_accepted_and_one_more(server: Any) -> None:
    given = {f"new-{number}": SHELF_5 for number in range(256)}
    body = server.score("user-1", list(given), item_features=given).json()
    assert body["computed"] == list(range(256))
    assert len(set(body["scores"])) == 1
    answer = server.score("user-1", [1], item_features=given | {"one more": {}})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "malformed")
    assert answer.json()["error"] == "item_features: of 257 items, at most 256 are accepted"


@pytest.mark.parametrize("candidate", ["new", 1, "elsewhere"])
@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"price": "33"}, "item_features['{}']: feature 'price': '33' is not a number"),
        ({"price": True}, "item_features['{}']: feature 'price': True is not a number"),
        ({"shelf": [1]}, "item_features['{}']: feature 'shelf': [1] is no category"),
        ({"genres": "x"}, "item_features['{}']: feature 'genres': 'x' is not a list"),
        ({"age": 3}, "item_features['{}']: unknown feature 'age' = 3; known: shelf, price, genres"),
    ],
)
def test_wrong_features_are_refused_whether_they_are_needed_or_not(
    server: Any, candidate: object, features: object, text: str
) -> None:
    answer = server.score("user-1", ["new", 1], item_features={str(candidate): features})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "malformed")
    assert answer.json()["error"].startswith(text.format(candidate))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([SHELF_5], "item_features: must be an object, not a list"),
        ("shelf=5", "item_features: must be an object, not a string"),
        ({"new": None}, 'item_features["new"]: must be an object, not null'),
        ({"new": [1]}, 'item_features["new"]: must be an object, not a list'),
        ({"x" * 5000: 1}, 'item_features["xxx'),
        ({"x" * 5000: {"age": 1}}, "item_features['xxx"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/explain"])
def test_what_is_no_mapping_of_features(server: Any, path: str, given: object, text: str) -> None:
    answer = server.client.post(path, json={"user_id": 1, "candidate_ids": [1], "item_features": given})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "malformed")
    assert answer.json()["error"].startswith(text)
    assert len(answer.json()["error"]) < 500


def test_features_of_candidates_that_are_still_to_be_retrieved(server: Any) -> None:
    answer = server.client.post("/v1/rank", json={"user_id": 1, "item_features": {"new": SHELF_5}})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("item_features: are of candidates")


@pytest.mark.parametrize("budget_s", [0.02, 60.0])
async def test_the_towers_time_counts_inside_the_budget(budget_s: float) -> None:
    """In process, with a tower slower than the smaller budget: a real one takes what the machine takes."""
    layout = RowLayout(1, 8, 8, "float16", b"release1", kind="embedding")

    def compute(encoded: Any) -> NDArray[np.uint8]:
        time.sleep(0.05)
        return layout.encode({"embedding": np.zeros((len(encoded), 1, 8), dtype=np.float32)})

    tower = SimpleNamespace(layout=layout, encode=dict, compute=compute)
    line = CostLine(0.0, 0.0)
    costs = Costs({("full", "embedding"): line, "find": line, "tower": line})
    found = Fetched(layout.no_rows(1), (layout.no_rows(1),))
    store = SimpleNamespace(waits=False, find=lambda user, items: found)
    release: Any = SimpleNamespace(store=store, costs=costs, towers={"user": tower, "item": tower}, fallback_user=None)
    query = ScoreQuery(user_id="user", candidate_ids=["new"], item_features={"new": {}})
    context = RequestContext({}, {})
    metrics = Metrics()
    with Turns(OverloadSettings(), metrics).admit(Demand(1, Deadline(time.perf_counter() + budget_s), costs)) as ticket:
        pairs = Answering(query, release, ticket, context, metrics).pairs(["new"])
        if budget_s < 1:
            with pytest.raises(DeadlineExceededError):
                await pairs
        else:
            assert (await pairs).computed.tolist() == [0]


def test_what_is_computed_is_counted(server: Any) -> None:
    def counts() -> NDArray[np.float64]:
        kinds = [(kind, side) for kind in ("computed", "missing") for side in ("user", "item")]
        return np.array([server.metric(f"ranktower_{kind}_total", side=side) for kind, side in kinds])

    before = counts()
    server.score("nobody", ["new", "none", "new", 1], user_features={}, item_features={"new": SHELF_5, "2": {}})
    # Computed ones are missing from the store as well.
    assert (counts() - before).tolist() == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("items", "row_dtype", "item_rows"),
    [
        ("redis", "float16", "projected"),
        ("local+redis", "float16", "projected"),
        ("local+redis", "float16", "embedding"),
        ("local", "float32", "projected"),
        ("local", "float32", "embedding"),
    ],
)
def test_rows_are_computed_as_the_first_store_holds_them(
    build_release: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any], tmp_path: Path,
    items: str, row_dtype: str, item_rows: str,
) -> None:  # fmt: skip
    built = build_release(tmp_path, seed=73, row_dtype=row_dtype, item_rows=item_rows)
    built.promote()
    built.write_to_redis(redis_server.url)
    server = start_server(tmp_path, STORE__ITEMS=items, STORE__REDIS_URL=redis_server.url)
    server.wait_ready(built.release)
    body = server.score("user-1", ["new", 5, "other"], item_features={"new": SHELF_5, "other": SHELF_96}).json()
    projected = item_rows == "projected" and items != "redis"
    expected = tower_scores(built, "user-1", projected=projected)
    assert body["computed"] == [0, 2]
    np.testing.assert_allclose([body["scores"][0], body["scores"][2]], expected, atol=ATOL)
    stored = built.scores("user-1", [5], in_redis=items == "redis")
    np.testing.assert_allclose(body["scores"][1], stored[0], atol=ATOL)
    assert server.stop() == 0


def test_a_long_list_with_computed_candidates(server: Any, release: Any) -> None:
    """More than one block of rows, and what is computed lies among them."""
    candidates: list[object] = [number % 300 for number in range(3000)]
    candidates[1500] = candidates[2999] = "new"
    body = server.client.post(
        "/v1/score",
        content=json.dumps({"user_id": "user-1", "candidate_ids": candidates, "item_features": {"new": SHELF_5}}),
    ).json()
    assert (body["missing"], body["computed"]) == ([], [1500, 2999])
    expected = np.tile(release.scores("user-1", list(range(300))), 10)
    expected[[1500, 2999]] = tower_scores(release, "user-1")[0]
    np.testing.assert_allclose(body["scores"], expected, atol=ATOL)


LAYOUT = RowLayout(1, 8, 8, "float16", b"release1", kind="embedding")


def too_large(encoded: Sequence[Any]) -> NDArray[np.uint8]:
    raise DataError("a value is not finite in float16", file="rows to store", column="embedding", row=0)


def test_an_embedding_that_is_too_large_for_a_row_is_refused() -> None:
    tower: Any = SimpleNamespace(encode=dict, compute=too_large, layout=LAYOUT)
    given = GivenFeatures({"user": tower, "item": tower}, {"age": 1e30}, {"new": {"price": 1e30}})
    with pytest.raises(MalformedError, match=r"^user_features: an embedding is too large for the release's rows$"):
        _ = given.user_row
    with pytest.raises(MalformedError, match=r"^item_features: an embedding is too large for the release's rows$"):
        given.item_rows(["new"], [LAYOUT.no_rows(1)])


def test_the_tower_runs_once_for_what_is_needed_and_not_at_all_for_what_is_stored() -> None:
    asked: list[Sequence[Any]] = []

    def compute(encoded: Sequence[Any]) -> NDArray[np.uint8]:
        asked.append(encoded)
        return np.array([[one["number"]] * LAYOUT.row_size for one in encoded], dtype=np.uint8)

    tower: Any = SimpleNamespace(encode=dict, compute=compute, layout=LAYOUT)
    items = {str(number): {"number": number} for number in range(5)}
    given = GivenFeatures({"user": tower, "item": tower}, None, items)
    assert given.user_row is None
    stored = [
        Rows(
            LAYOUT, np.zeros((2, LAYOUT.row_size), dtype=np.uint8), np.array([True, False, True, False, False, False])
        ),
        Rows(LAYOUT, np.zeros((1, LAYOUT.row_size), dtype=np.uint8), np.array([False, True] + [False] * 4)),
    ]
    rows = given.item_rows([0, "1", 2, 3, 4, "3"], stored)
    assert rows is not None
    assert rows.present.tolist() == [False, False, False, True, True, True]
    assert rows.raw[:, 0].tolist() == [3, 4, 3]
    assert given.item_rows([0, 1], [Rows(LAYOUT, rows.raw[:2], np.array([True, True]))]) is None
    assert asked == [[{"number": 3}, {"number": 4}]]
