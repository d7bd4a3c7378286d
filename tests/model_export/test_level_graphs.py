"""``maxsim.onnx`` and ``pooled.onnx`` in ONNX Runtime, against their formulas in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model_export.level_graphs import build_level
from ranktower.blocks import FieldSizes
from ranktower.embedding_store.codec import ROW_DTYPES, RowDtype
from ranktower.models import RankTower, RankTowerConfig
from ranktower.onnx_runtime import onnxruntime
from ranktower.release import LEVEL_GRAPHS, LevelGraph

Floats = NDArray[np.float64]
TAG = b"\xff" * 8
ATOL = 1e-5  # on the cosine-sum scale
# Hu, Hi, D: the reference, then the ends of what a configuration may say.
SHAPES = [(4, 4, 32), (2, 3, 16), (1, 1, 8), (16, 1, 8), (1, 16, 256)]


def unit(vectors: Floats) -> Floats:
    """Of length 1; zeros stay zeros."""
    lengths = np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6)


def layer_norm(vectors: Floats, norm: torch.nn.LayerNorm) -> Floats:
    centred = vectors - vectors.mean(axis=-1, keepdims=True)
    weight, bias = (parameter.detach().double().numpy() for parameter in (norm.weight, norm.bias))
    scaled: Floats = weight * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps) + bias
    return scaled


@dataclass(frozen=True)
class Case:
    """A model and one of its graphs."""

    model: RankTower
    level: LevelGraph
    dtype: RowDtype
    session: onnxruntime.InferenceSession

    def run(self, user: Floats, items: Floats) -> Floats:
        """What the graph gives for multi-embeddings ``[Hu, D]`` and ``[N, Hi, D]`` stored as rows, times tau."""
        feed = {"user_rows": self.rows(user[None]), "item_rows": self.rows(items)}
        scores = self.session.run(["scores"], feed)[0]
        assert scores.dtype == np.float32
        assert scores.shape == (len(items),)
        return scores.astype(np.float64) * self.model.similarity.tau.item()

    def rows(self, embedding: Floats) -> NDArray[np.floating]:
        """A tag that is no number, then the values."""
        tag = np.frombuffer(TAG, dtype=self.dtype)
        with np.errstate(over="ignore"):
            values = embedding.reshape(len(embedding), -1).astype(self.dtype)
        return np.concatenate([np.tile(tag, (len(values), 1)), values], axis=1)

    def expected(self, user: Floats, items: Floats) -> Floats:
        """The formula, times tau, of what the rows hold."""
        user, items = (side.astype(self.dtype).astype(np.float64) for side in (user, items))
        if self.level == "pooled":
            return (unit(items.sum(axis=1)) @ unit(user).T).sum(axis=1)
        network = self.model.cross_attention
        cosines = unit(layer_norm(items, network.item_norm)) @ unit(layer_norm(user, network.user_norm)).T
        best: Floats = cosines.max(axis=1).sum(axis=1)
        return best

    def embeddings(self, num_items: int, *, scale: float = 1.0) -> tuple[Floats, Floats]:
        random, config = np.random.default_rng(num_items), self.model.config
        user = scale * random.standard_normal((config.num_user_heads, config.width))
        return user, scale * random.standard_normal((num_items, config.num_item_heads, config.width))


def make_case(shape: tuple[int, int, int], level: LevelGraph, dtype: RowDtype) -> Case:
    torch.manual_seed(sum(shape))
    sizes = FieldSizes(single={"age": 4}, bags={})
    num_user_heads, num_item_heads, width = shape
    config = RankTowerConfig(num_user_heads=num_user_heads, num_item_heads=num_item_heads, width=width, hidden=(8,))
    model = RankTower(config, sizes, sizes).eval()
    with torch.no_grad():  # the initial 1 and 0 would hide a LayerNorm that is left out or swapped
        for norm in (model.cross_attention.user_norm, model.cross_attention.item_norm):
            norm.weight.normal_(1.0, 0.3)
            norm.bias.normal_(0.2, 0.3)
    content = build_level(model, level, dtype=dtype).SerializeToString()
    return Case(model, level, dtype, onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]))


@pytest.fixture(params=[(level, dtype) for level in LEVEL_GRAPHS for dtype in ROW_DTYPES], ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    """Each graph of a model with Hu = 2, Hi = 3."""
    return make_case((2, 3, 16), *request.param)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("level", LEVEL_GRAPHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_the_formulas(shape: tuple[int, int, int], level: LevelGraph, dtype: RowDtype) -> None:
    case = make_case(shape, level, dtype)
    for num_items in (1, 2, 17, 1000):
        user, items = case.embeddings(num_items)
        np.testing.assert_allclose(case.run(user, items), case.expected(user, items), atol=ATOL, rtol=0)
    assert np.ptp(case.run(user, items)) > 0.05, "the scores must differ, or their agreement says nothing"


@pytest.mark.parametrize(("of_user", "of_items"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_embeddings_of_zeros(case: Case, of_user: float, of_items: float) -> None:
    """LayerNorm makes its bias of them, and the cosine of a vector of zeros is 0."""
    user, items = case.embeddings(5)
    user, items = of_user * user, of_items * items
    np.testing.assert_allclose(case.run(user, items), case.expected(user, items), atol=ATOL, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 100.0, 10_000.0])
def test_small_and_large_embeddings(case: Case, scale: float) -> None:
    user, items = case.embeddings(200, scale=scale)
    np.testing.assert_allclose(case.run(user, items), case.expected(user, items), atol=ATOL, rtol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_takes_its_own_items_score_away_and_no_others(case: Case, value: float) -> None:
    """Item 2 k + 1 has the value at place k of its embedding and nowhere else; the even items are whole."""
    user, items = case.embeddings(2 * 48 + 1)
    before = case.run(user, items)
    items.reshape(-1, 48)[2 * np.arange(48) + 1, np.arange(48)] = value
    after = case.run(user, items)
    assert not np.isfinite(after[1::2]).any()
    np.testing.assert_array_equal(after[::2], before[::2])


def test_a_user_with_what_is_no_number_has_no_score(case: Case) -> None:
    user, items = case.embeddings(3)
    for head in range(2):
        broken = user.copy()
        broken[head, 7] = np.nan
        assert not np.isfinite(case.run(broken, items)).any()


def test_inputs_are_embedding_rows_and_the_output_is_scores(case: Case) -> None:
    kind, tag = ("tensor(float16)", 4) if case.dtype == "float16" else ("tensor(float)", 2)
    users, items = case.session.get_inputs()
    assert (users.name, users.type, users.shape) == ("user_rows", kind, [1, tag + 2 * 16])
    assert (items.name, items.type, items.shape) == ("item_rows", kind, ["candidates", tag + 3 * 16])
    (scores,) = case.session.get_outputs()
    assert (scores.name, scores.type, scores.shape) == ("scores", "tensor(float)", ["candidates"])


@pytest.mark.parametrize("level", LEVEL_GRAPHS)
def test_only_standard_operators_that_any_runtime_has(level: LevelGraph) -> None:
    sizes = FieldSizes(single={"age": 4}, bags={})
    graph = build_level(RankTower(RankTowerConfig(), sizes, sizes), level, dtype="float16")
    assert {opset.domain for opset in graph.opset_import} <= {"", "ai.onnx"}
    onnx.checker.check_model(graph, full_check=True)
