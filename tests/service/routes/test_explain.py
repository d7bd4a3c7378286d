"""POST /v1/explain on a running server, against the paper's formulas in float64 over the stored rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from ranktower.embedding_store.local import LocalTable
from ranktower.onnx_runtime import onnxruntime
from ranktower.registry import Registry
from ranktower.release import read_manifest, write_manifest
from ranktower.verification import hash_files

Matrix = NDArray[np.float64]
ATOL = 4e-5  # of a logit in float32
WEIGHTS_ATOL = 1e-6  # of an attention weight and a cosine in float32


def explain(server: Any, user_id: object, candidate_ids: Sequence[object], **more: object) -> Any:
    body = {"user_id": user_id, "candidate_ids": candidate_ids}
    return server.client.post("/v1/explain", json=body | more)


class Paper:
    """Equations 5 to 13 for one pair, from the arrays that are stored and the model's weights."""

    def __init__(self, release: Any, user: Sequence[torch.Tensor], item: Sequence[torch.Tensor]) -> None:
        model = release.blueprint.model
        self.state = {name: array.double().numpy() for name, array in model.state_dict().items()}
        u_embedding, u_query, u_key, u_value, u_gate = (array.double().numpy() for array in user)
        i_embedding, i_query, i_key, i_value, i_gate = (array.double().numpy() for array in item)
        self.user_attention = softmax(u_query @ i_key.T / np.sqrt(u_query.shape[1]))
        self.item_attention = softmax(i_query @ u_key.T / np.sqrt(i_query.shape[1]))
        users = self.attended("user", u_embedding, u_gate * (self.user_attention @ i_value))
        items = self.attended("item", i_embedding, i_gate * (self.item_attention @ u_value))
        lengths = np.linalg.norm(users, axis=1)[:, None] * np.linalg.norm(items, axis=1)
        self.cosines = users @ items.T / lengths
        self.contributions = self.cosines.max(axis=1) / np.exp(self.state["similarity.log_tau"])

    def attended(self, side: str, embedding: Matrix, gated: Matrix) -> Matrix:
        x = embedding + gated @ self.state[f"cross_attention.{side}_branch.output.weight"].T
        centred = x - x.mean(axis=1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        weight, bias = (self.state[f"cross_attention.{side}_norm.{name}"] for name in ("weight", "bias"))
        attended: Matrix = normed * weight + bias
        return attended


def softmax(logits: Matrix) -> Matrix:
    exponentials = np.exp(logits)
    weights: Matrix = exponentials / exponentials.sum(axis=1, keepdims=True)
    return weights


def assert_explains(one: Any, paper: Paper) -> None:
    for name in ("user_attention", "item_attention"):
        expected = getattr(paper, name)
        # An untrained model attends almost evenly, and yet the tolerance tells a matrix from its transpose.
        assert np.abs(expected - expected.T).max() > 10 * WEIGHTS_ATOL
        np.testing.assert_allclose(one[name], expected, atol=WEIGHTS_ATOL)
        np.testing.assert_allclose(np.sum(one[name], axis=1), 1, atol=WEIGHTS_ATOL)
    assert [match["item_subspace"] for match in one["matches"]] == paper.cosines.argmax(axis=1).tolist()
    cosines = [match["cosine"] for match in one["matches"]]
    contributions = [match["contribution"] for match in one["matches"]]
    np.testing.assert_allclose(cosines, paper.cosines.max(axis=1), atol=ATOL / 4)
    np.testing.assert_allclose(contributions, paper.contributions, atol=ATOL)
    assert sum(contributions) == pytest.approx(one["score"], rel=1e-5, abs=1e-5)


def user_arrays(release: Any, user_id: str) -> list[torch.Tensor]:
    return [array[release.user_ids.index(user_id)] for array in release.arrays("user")]


def item_arrays(release: Any, item_id: object, *, in_redis: bool = False) -> list[torch.Tensor]:
    place = release.item_ids.index(str(item_id))
    return [array[place] for array in release.arrays("item", in_redis=in_redis)]


def test_every_number_is_the_papers(server: Any, release: Any) -> None:
    candidates = [5, "17", "ключ-ß-鍵", 250]
    answer = explain(server, "user-3", candidates)
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["request_id", "release", "user", "explanations", "missing", "took_ms"]
    assert (body["release"], body["user"], body["missing"]) == (release.release, "PRESENT", [])
    assert [one["id"] for one in body["explanations"]] == candidates
    for one in body["explanations"]:
        assert list(one) == ["id", "score", "matches", "user_attention", "item_attention"]
        assert_explains(one, Paper(release, user_arrays(release, "user-3"), item_arrays(release, one["id"])))
    expected = release.scores("user-3", candidates)
    np.testing.assert_allclose([one["score"] for one in body["explanations"]], expected, atol=ATOL)


def test_the_scores_are_those_of_v1_score(server: Any) -> None:
    candidates = list(range(32))
    explained = [one["score"] for one in explain(server, "user-4", candidates).json()["explanations"]]
    np.testing.assert_allclose(explained, server.score("user-4", candidates).json()["scores"], atol=ATOL)


def test_numbers_and_strings_are_one_id_and_duplicates_are_explained_each(server: Any) -> None:
    explanations = explain(server, "user-1", [12, "12", 12]).json()["explanations"]
    assert [one.pop("id") for one in explanations] == [12, "12", 12]
    assert explanations[0] == explanations[1] == explanations[2]


def test_a_candidate_without_a_row_is_null_and_missing(server: Any) -> None:
    body = explain(server, "user-1", ["nobody", 1, "012"]).json()
    assert [one is None for one in body["explanations"]] == [True, False, True]
    assert body["missing"] == [0, 2]
    assert explain(server, "user-1", ["nobody"]).json()["explanations"] == [None]


def test_the_lower_levels_are_those_of_a_degraded_answer(server: Any, release: Any) -> None:
    candidates = [5, "none", "17", 250]
    body = explain(server, "user-3", candidates, levels=True).json()
    found = [one["levels"] for one in body["explanations"] if one]
    graphs, rows = {}, {}
    for side, ids in (("user", ["user-3"]), ("item", ["5", "17", "250"])):
        layout = release.manifest.redis_layout(side)
        raw = LocalTable(release.folder / f"{side}s", release.manifest.layout(side)).fetch(ids).raw
        rows[f"{side}_rows"] = layout.values(np.ascontiguousarray(raw[:, : layout.row_size]))
    for level in release.manifest.ladder[-2:]:
        graphs[level.level] = onnxruntime.InferenceSession(release.folder / f"{level.level}.onnx").run(None, rows)[0]
        x, y = (np.array(points) for points in (level.calibration.inputs, level.calibration.outputs))
        # Between the two points around it, or along the first or last segment.
        left = np.clip(np.searchsorted(x, graphs[level.level]) - 1, 0, len(x) - 2)
        slope = (y[left + 1] - y[left]) / (x[left + 1] - x[left])
        expected = y[left] + slope * (graphs[level.level] - x[left])
        np.testing.assert_allclose([one[level.level] for one in found], expected, atol=ATOL)
    assert graphs.keys() == {"maxsim", "pooled"}
    plain = explain(server, "user-3", candidates).json()["explanations"]
    for one, without in zip(body["explanations"], plain, strict=True):
        assert one is None or {key: one[key] for key in one if key != "levels"} == without


def test_levels_of_a_release_without_a_ladder(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    build_release(tmp_path, seed=73, ladder=False).promote()
    server = start_server(tmp_path)
    server.wait_ready()
    assert [one["levels"] for one in explain(server, "user-1", [1, 2], levels=True).json()["explanations"]] == [
        None
    ] * 2
    assert server.stop() == 0


def test_users_that_are_not_stored(server: Any) -> None:
    for more, state in (({}, "FALLBACK"), ({"user_features": {"country": "fr", "age": 33}}, "COMPUTED")):
        body = explain(server, "nobody", [1, 2], **more).json()
        assert body["user"] == state
        scores = server.score("nobody", [1, 2], **more).json()["scores"]
        np.testing.assert_allclose([one["score"] for one in body["explanations"]], scores, atol=ATOL)


def test_candidates_computed_from_their_features(server: Any) -> None:
    features = {"new": {"shelf": 5, "price": 3.5, "genres": ["x"]}, "1": {"shelf": 6}}
    body = explain(server, "user-1", ["nobody", "new", 1], item_features=features).json()
    assert (body["missing"], body["computed"]) == ([0], [1])
    scores = server.score("user-1", ["nobody", "new", 1], item_features=features).json()["scores"]
    found = [one and one["score"] for one in body["explanations"]]
    np.testing.assert_allclose(np.array(found, dtype=float), np.array(scores, dtype=float), atol=ATOL)
    assert sum(match["contribution"] for match in body["explanations"][1]["matches"]) == pytest.approx(scores[1])


def test_rows_of_two_kinds_in_one_request(
    build_release: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    """Items of the table are explained by one graph, those of Redis by the other."""
    built = build_release(tmp_path, seed=71)
    built.promote()
    built.write_to_redis(redis_server.url)
    prefix = f"ranktower:demo:{built.release}:i:"
    redis_server.command("copy", f"{prefix}17", f"{prefix}brand-new", "replace")
    server = start_server(tmp_path, STORE__ITEMS="local+redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(built.release)
    body = explain(server, "user-1", ["brand-new", "nobody", 5, "fresh"], item_features={"fresh": {}}).json()
    assert (body["missing"], body["computed"]) == ([1], [3])
    user, explanations = user_arrays(built, "user-1"), body["explanations"]
    levels = explain(server, "user-1", ["brand-new", 17], levels=True).json()["explanations"]
    assert levels[0]["levels"] == levels[1]["levels"], "the lower levels see the embedding alone, from either store"
    assert_explains(explanations[0], Paper(built, user, item_arrays(built, 17, in_redis=True)))
    assert_explains(explanations[2], Paper(built, user, item_arrays(built, 5)))
    assert explanations[3]["id"] == "fresh"
    assert server.stop() == 0


def test_a_release_whose_graph_gives_only_scores(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path / "built", seed=72)
    folder = Registry(tmp_path / "served").staging_dir("demo", built.release)
    shutil.copytree(built.folder, folder)
    graph = onnx.load(folder / "scorer.onnx")
    del graph.graph.output[1:]
    onnx.save(graph, folder / "scorer.onnx")
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": hash_files(folder)}))
    Registry(tmp_path / "served").publish(folder)
    Registry(tmp_path / "served").promote("demo", built.release)
    server = start_server(tmp_path / "served")
    server.wait_ready(built.release)
    assert server.score("user-1", [1]).status_code == 200
    answer = explain(server, "user-1", [1])
    assert (answer.status_code, answer.json()["error_type"]) == (501, "not_explainable")
    assert answer.json()["error"] == "the release was exported without what explains its scores; export it again"
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"candidate_ids": []}, 422, "candidate_ids: must hold 1 to 32 ids, got none"),
        ({"candidate_ids": list(range(33))}, 413, "candidate_ids: 33 candidates, at most 32 are accepted"),
        ({"candidate_ids": None}, 422, "candidate_ids: must be a list, not null"),
        ({"candidate_ids": [1.5]}, 422, "candidate_ids[0]: must be a string or an integer"),
        ({"user_id": None}, 422, "user_id: must be a string or an integer"),
        (
            {"top_k": 1},
            422,
            '"top_k": unknown field; known are budget_ms, candidate_ids, item_features, levels, user_features',
        ),
        ({"freshness": True}, 422, '"freshness": unknown field'),
        ({"levels": 1}, 422, "levels: must be true or false, got 1"),
        ({"user_features": {"colour": 1}}, 422, "user_features: unknown feature 'colour'"),
        ({"item_features": {"x": {"price": "1"}}}, 422, "item_features['x']: feature 'price': '1' is not a number"),
        ({"budget_ms": 0.001}, 504, "budget"),
    ],
)
def test_what_is_refused(server: Any, change: dict[str, object], status: int, text: str) -> None:
    answer = server.client.post("/v1/explain", json={"user_id": 1, "candidate_ids": [1]} | change)
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_explaining_is_measured_by_its_own_name(server: Any) -> None:
    before = server.metric("ranktower_request_duration_seconds_count", endpoint="explain", outcome="ok")
    explain(server, "user-1", [1])
    assert server.metric("ranktower_request_duration_seconds_count", endpoint="explain", outcome="ok") == before + 1


def test_a_number_in_an_answer_is_the_float32_that_was_computed(server: Any) -> None:
    one = json.loads(explain(server, "user-1", [1]).text, parse_float=str)["explanations"][0]
    written = [one["score"], *one["user_attention"][0], *one["item_attention"][3]]
    assert all(str(np.float32(text)) == text for text in written)
