"""The scorer alone, and releases whose parts do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranktower.embedding_store.codec import ROW_KINDS
from ranktower.embedding_store.local import LocalTable
from ranktower.errors import ReleaseError
from ranktower.release import Manifest
from service.errors import NotExplainableError
from service.onnx import open_session
from service.scorer import BLOCK, Scorer

ATOL = 4e-5


def rows(release: Any, side: str) -> np.ndarray:
    layout = release.manifest.layout(side)
    return np.fromfile(release.folder / f"{side}s" / "rows.bin", dtype=np.uint8).reshape(-1, layout.row_size)


def without_ladder(release: Any) -> Manifest:
    """So that a folder needs no graphs but the scorers."""
    manifest: Manifest = release.manifest.model_copy(update={"ladder": ()})
    return manifest


@pytest.fixture(scope="module", params=[("float16", "projected"), ("float32", "embedding")], ids="-".join)
def built(request: pytest.FixtureRequest, build_release: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """A release of either dtype and either kind of item rows."""
    dtype, item_rows = request.param
    return build_release(tmp_path_factory.mktemp("registry"), seed=60, row_dtype=dtype, item_rows=item_rows)


def test_scores_are_torchs_for_rows_of_the_table_and_of_redis(built: Any) -> None:
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    users = LocalTable(built.folder / "users", built.manifest.layout("user"))
    items = LocalTable(built.folder / "items", built.manifest.layout("item"))
    user, item_rows = users.fetch(["user-5"]).raw, items.fetch(built.item_ids).raw
    scores = scorer.score(user, items.layout, item_rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, built.scores("user-5", built.item_ids), atol=ATOL)
    in_redis = built.manifest.redis_layout("item")
    scores = scorer.score(user, in_redis, item_rows[:, : in_redis.row_size])
    np.testing.assert_allclose(scores, built.scores("user-5", built.item_ids, in_redis=True), atol=ATOL)


@pytest.mark.parametrize("num_candidates", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2500])
def test_a_long_list_scores_like_its_pieces(built: Any, num_candidates: int) -> None:
    layout = built.manifest.layout("item")
    scorer = Scorer(built.folder, built.manifest, [layout.kind])
    user = rows(built, "user")[:1]
    items = rows(built, "item")[np.random.default_rng(1).integers(0, 300, num_candidates)]
    whole = scorer.score(user, layout, items)
    assert whole.shape == (num_candidates,)
    assert np.isfinite(whole).all()
    for size in (100, 333, 1000):
        pieces = [scorer.score(user, layout, items[start : start + size]) for start in range(0, num_candidates, size)]
        np.testing.assert_allclose(np.concatenate([[], *pieces]), whole, atol=ATOL)


def test_larger_requests_after_smaller_ones_and_the_other_way_round(release: Any) -> None:
    """No request sees another's rows, and none changes what an earlier one was given."""
    layout = release.manifest.layout("item")
    scorer = Scorer(release.folder, release.manifest, [layout.kind])
    user, items = rows(release, "user")[:1], rows(release, "item")
    whole = scorer.score(user, layout, items)
    before = whole.copy()
    for start, stop in ((0, 1), (5, 300), (0, 0), (299, 300), (0, len(items))):
        np.testing.assert_allclose(scorer.score(user, layout, items[start:stop]), whole[start:stop], atol=ATOL)
    many = np.tile(items, (8, 1))
    np.testing.assert_allclose(scorer.score(user, layout, many), np.tile(whole, 8), atol=ATOL)
    np.testing.assert_allclose(scorer.score(user, layout, items[:3]), whole[:3], atol=ATOL)
    np.testing.assert_array_equal(whole, before)


def test_rows_of_another_size_are_refused(release: Any) -> None:
    scorer = Scorer(release.folder, release.manifest, ROW_KINDS)
    user, items = rows(release, "user")[:1], rows(release, "item")[:2]
    with pytest.raises(ValueError, match=r"shape \(2, 1288\), expected \([2n], 264\)"):
        scorer.score(user, release.manifest.redis_layout("item"), items)
    with pytest.raises(ValueError, match=r"shape \(1, 1288\), expected \(1, 264\)"):
        scorer.score(items[:1], release.manifest.layout("item"), items)


def test_only_the_graphs_of_the_stores_are_opened(release: Any, tmp_path: Path) -> None:
    (tmp_path / "embedding_scorer.onnx").write_bytes((release.folder / "embedding_scorer.onnx").read_bytes())
    Scorer(tmp_path, without_ladder(release), ["embedding", "embedding"])
    with pytest.raises(ReleaseError, match=r"/scorer.onnx: cannot be run: "):
        Scorer(tmp_path, without_ladder(release), ["embedding", "projected"])


@pytest.mark.parametrize("number", ["1", "3"])
def test_a_graph_that_gives_another_number_of_scores(release: Any, tmp_path: Path, number: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    wrong (float16[1, 132] user_rows, float16[n, 644] item_rows) => (float[m] scores)
    <float[{number}] fixed = {{{", ".join("0" * int(number))}}}> {{ scores = Identity (fixed) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "scorer.onnx")
    scorer = Scorer(tmp_path, without_ladder(release), ["projected"])
    with pytest.raises(ReleaseError, match=rf"^the scorer gives scores of shape \({number},\) for 2 candidates$"):
        scorer.score(rows(release, "user")[:1], release.manifest.layout("item"), rows(release, "item")[:2])


def test_what_explains_a_score_comes_with_it(built: Any) -> None:
    scorer = Scorer(built.folder, built.manifest, ROW_KINDS)
    user, items = rows(built, "user")[:1], rows(built, "item")[:5]
    for layout in (built.manifest.layout("item"), built.manifest.redis_layout("item")):
        raw = np.ascontiguousarray(items[:, : layout.row_size])
        explained = scorer.explain(user, layout, raw)
        shapes = {name: array.shape for name, array in explained.items()}
        assert shapes == {
            "scores": (5,),
            "user_attention": (4, 4, 5),
            "item_attention": (4, 4, 5),
            "cosines": (4, 4, 5),
            "contributions": (4, 5),
        }
        np.testing.assert_array_equal(explained["scores"], scorer.score_reference(user, layout, raw))
        np.testing.assert_allclose(explained["scores"], scorer.score(user, layout, raw), atol=ATOL)
        np.testing.assert_allclose(explained["contributions"].sum(axis=0), explained["scores"], rtol=1e-5)


def test_a_graph_that_gives_only_scores_scores_and_explains_nothing(release: Any, tmp_path: Path) -> None:
    graph = onnx.load(release.folder / "scorer.onnx")
    del graph.graph.output[1:]
    onnx.save(graph, tmp_path / "scorer.onnx")
    scorer = Scorer(tmp_path, without_ladder(release), ["projected"])
    request = rows(release, "user")[:1], release.manifest.layout("item"), rows(release, "item")[:2]
    assert scorer.score(*request).shape == (2,)
    with pytest.raises(NotExplainableError, match=r"^the release was exported without what explains its scores; "):
        scorer.explain(*request)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"graph.onnx: cannot be run: "):
        open_session(tmp_path / "graph.onnx", inputs=[], outputs=[])


def test_a_graph_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"none.onnx: cannot be run: NoSuchFile"):
        open_session(tmp_path / "none.onnx", inputs=[], outputs=[])


def test_a_graph_without_the_output(release: Any) -> None:
    with pytest.raises(ReleaseError, match=r"scorer.onnx: outputs \['labels'\] are missing"):
        open_session(release.folder / "scorer.onnx", inputs=["user_rows", "item_rows"], outputs=["scores", "labels"])
