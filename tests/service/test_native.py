"""The native scorer in the service: the same scores as ONNX Runtime, and ONNX Runtime where it is wrong or absent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranktower.embedding_store.codec import ROW_KINDS
from ranktower.embedding_store.local import LocalTable
from ranktower.errors import ConfigError
from ranktower.release import read_manifest, write_manifest
from ranktower.verification import hash_file
from service.metrics import Metrics
from service.scorer import Scorer
from service.settings import ScorerSettings

native = pytest.importorskip("ranktower_native", reason="ranktower-native is not installed: there is no C++ compiler")

ATOL = 4e-5
KEY = "ranktower_scorer"


@pytest.fixture(scope="module", params=[("float16", "projected"), ("float32", "embedding")], ids="-".join)
def built(request: pytest.FixtureRequest, build_release: Callable[..., Any], tmp_path_factory: Any) -> Any:
    dtype, item_rows = request.param
    return build_release(tmp_path_factory.mktemp("registry"), seed=71, row_dtype=dtype, item_rows=item_rows)


def change_metadata(folder: Path, **changes: object) -> None:
    """Publish another scorer than the exporter's; without changes, one of before there was metadata."""
    path = folder / "scorer.onnx"
    graph = onnx.load(path)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    new = {KEY: json.dumps(json.loads(told[KEY]) | changes)} if changes else {}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, new)
    onnx.save(graph, path)
    manifest = read_manifest(folder)
    files = {**manifest.files, "scorer.onnx": hash_file(path)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def promote(root: Path, release: str) -> None:
    (root / "demo" / "current").write_text(json.dumps({"release": release, "previous": []}))


def test_stored_rows_are_scored_where_they_lie_and_copied_ones_alike(built: Any) -> None:
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    assert scorer.native.engine == "native"
    user = LocalTable(built.folder / "users", built.manifest.layout("user")).fetch(["user-3"]).raw
    table = LocalTable(built.folder / "items", built.manifest.layout("item"))
    ids = [*built.item_ids[::-1], "nobody", *built.item_ids[:7]]
    located, copied = table.locate(ids), table.fetch(ids)
    expected = scorer.score_reference(user, copied.layout, copied.raw)
    assert len(expected) == len(ids) - 1
    for items in (located, copied):
        np.testing.assert_allclose(scorer.score_stored(user, items), expected, atol=ATOL)
        for chosen in (slice(5, 70), np.array([300, 0, 5, 5]), np.empty(0, dtype=np.int64)):
            np.testing.assert_allclose(scorer.score_stored(user, items, chosen), expected[chosen], atol=ATOL)
    embeddings = built.manifest.redis_layout("item")
    rows = copied.raw[:, : embeddings.row_size]
    by_onnx = scorer.score_reference(user, embeddings, np.ascontiguousarray(rows))
    np.testing.assert_allclose(scorer.score(user, embeddings, rows), by_onnx, atol=ATOL)


def test_both_engines_answer_with_the_same_scores(built: Any, start_server: Callable[..., Any]) -> None:
    root = built.folder.parent.parent
    promote(root, built.release)
    answers = {}
    for engine in ("native", "onnx", "auto"):
        server = start_server(root, SCORER__ENGINE=engine)
        server.wait_ready()
        used = "onnx" if engine == "onnx" else "native"
        assert server.client.get("/v1/release").json()["engine"] == used
        assert server.metric("ranktower_scorer_engine", engine=used, role="current") == 1
        assert server.metric("ranktower_scorer_engine", role="current") == 1
        answers[engine] = server.score("user-1", [*range(300), "nobody"]).json()
        assert server.stop() == 0
    for answer in answers.values():
        assert answer["missing"] == [300]
        np.testing.assert_allclose(answer["scores"][:300], answers["onnx"]["scores"][:300], atol=ATOL)


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"activation": "relu"}, "disagrees", "scores differ from ONNX Runtime's by"),
        ({"version": 2}, "unsupported", "scorer of version 2, known is 1"),
        ({"user_heads": 17}, "unsupported", "user_heads: must be an integer from 1 to 16, got 17"),
        ({"user_heads": 5}, "unsupported", "the release's rows of"),
        ({"is_float16": "x"}, "unsupported", "is_float16: must be true or false, got 'x'"),
        ({"activation": "tanh"}, "unsupported", "activation: must be one of silu, relu, gelu, got 'tanh'"),
        ({}, "unsupported", "export the model again"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_scorer_that_is_not_what_it_says_is_left_to_onnx_runtime(
    build_release: Callable[..., Any],
    start_server: Callable[..., Any],
    tmp_path: Path,
    changes: dict[str, object],
    reason: str,
    detail: str,
) -> None:
    release = build_release(tmp_path, seed=72)
    change_metadata(release.folder, **changes)
    promote(tmp_path, release.release)
    server = start_server(tmp_path, SCORER__ENGINE="native")
    server.wait_ready()
    np.testing.assert_allclose(
        server.score("user-1", release.item_ids).json()["scores"], release.scores("user-1", release.item_ids), atol=ATOL
    )
    assert server.client.get("/v1/release").json()["engine"] == "onnx"
    assert server.metric("ranktower_scorer_engine", engine="onnx", role="current") == 1
    assert server.metric("ranktower_native_refused_total", reason=reason) == 1
    (line,) = [line for line in server.lines() if line["message"].startswith("the native scorer is not used")]
    assert (line["level"], line["reason"]) == ("error", reason)
    assert detail in line["detail"]
    assert server.stop() == 0


def test_golden_rows_that_it_scores_otherwise_refuse_it(built: Any) -> None:
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    layout = built.manifest.layout("item")
    user = LocalTable(built.folder / "users", built.manifest.layout("user")).fetch(["user-3"]).raw
    rows = LocalTable(built.folder / "items", layout).fetch(built.item_ids).raw
    scores = scorer.score_reference(user, layout, rows)
    scorer.native.compare(user, layout, rows, scores + 0.5e-4 / built.manifest.tau)
    assert scorer.native.engine == "native"
    scores[-1] += 3e-4 / built.manifest.tau
    scorer.native.compare(user, layout, rows, scores)
    assert (scorer.native.engine, scorer.native.refusal) == ("onnx", "disagrees")
    np.testing.assert_array_equal(scorer.score(user, layout, rows[:9]), scorer.score_reference(user, layout, rows[:9]))


def test_a_value_that_is_not_finite_gives_no_score_and_costs_no_other(built: Any) -> None:
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    layout = built.manifest.layout("item")
    user = LocalTable(built.folder / "users", built.manifest.layout("user")).fetch(["user-3"]).raw
    rows = np.tile(LocalTable(built.folder / "items", layout).fetch(["7"]).raw, (200, 1))
    values = layout.values(rows)
    places = np.random.default_rng(0).integers(4, values.shape[1], 100)
    values[np.arange(0, 200, 2), places] = np.resize([np.nan, np.inf, -np.inf], 100)
    scores = scorer.score(user, layout, rows)
    assert not np.isfinite(scores[::2]).any()
    np.testing.assert_allclose(scores[1::2], scorer.score_reference(user, layout, rows[1:2])[0], atol=ATOL)


def test_asked_for_by_name_it_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ScorerSettings(engine="native").check()
    monkeypatch.setitem(sys.modules, "ranktower_native", None)
    ScorerSettings(engine="auto").check()
    with pytest.raises(
        ConfigError, match=r"^scorer\.engine: is native, and the package ranktower-native is not instal"
    ):
        ScorerSettings(engine="native").check()


def test_without_the_package_onnx_runtime_scores(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ranktower_native", None)
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    assert (scorer.native.engine, scorer.native.refusal) == ("onnx", None)


def test_the_engine_of_a_role_that_serves_nothing_is_none(built: Any) -> None:
    metrics = Metrics()
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    metrics.serve_release("canary", built.manifest, scorer.native)
    assert b'ranktower_scorer_engine{engine="native",role="canary"} 1.0' in metrics.render()
    metrics.serve_nothing("canary")
    for engine in (b"native", b"onnx"):
        assert b'ranktower_scorer_engine{engine="%s",role="canary"} 0.0' % engine in metrics.render()
