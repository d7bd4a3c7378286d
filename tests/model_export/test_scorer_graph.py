"""``scorer.onnx`` and ``embedding_scorer.onnx`` in ONNX Runtime, against torch and against the paper's formulas."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model_export.scorer_graph import build_scorer
from ranktower.blocks import FieldSizes
from ranktower.blocks.gated_attention_unit import Activation
from ranktower.embedding_store.codec import ARRAYS, ROW_DTYPES, ROW_KINDS, RowDtype, RowKind, RowLayout
from ranktower.models import RankTower, RankTowerConfig
from ranktower.onnx_runtime import onnxruntime

Shape = tuple[int, int, int, int]
Bytes = NDArray[np.uint8]
Scores = NDArray[np.float64]
ATOL = 1e-5  # on the cosine-sum scale
COUNTS = (1, 2, 17, 1000)
REFERENCE, SMALL = (4, 4, 32, 32), (2, 3, 8, 16)
# Hu, Hi, D, A: the reference, then the ends of what a configuration may say.
SHAPES: list[Shape] = [
    REFERENCE, (2, 3, 16, 8), (1, 1, 8, 8), (5, 2, 8, 24), (16, 1, 8, 256), (1, 16, 256, 8), (16, 16, 24, 40),
]  # fmt: skip
MODELS: list[tuple[Shape, Activation]] = [(shape, "silu") for shape in SHAPES]
MODELS += [(SMALL, "relu"), (REFERENCE, "relu"), (SMALL, "gelu"), (REFERENCE, "gelu")]


@dataclass(frozen=True)
class Case:
    """A model, one of its graphs, and stored rows for it."""

    model: RankTower
    graph: onnx.ModelProto
    users: RowLayout
    items: RowLayout
    session: onnxruntime.InferenceSession

    def rows(self, num_items: int, *, scale: float = 1.0) -> tuple[Bytes, Bytes]:
        """Rows of one random user and of ``num_items`` random items, encoded as they are stored."""
        generator = torch.Generator().manual_seed(num_items)
        user = scale * torch.randn(1, self.users.heads, self.users.width, generator=generator)
        items = scale * torch.randn(num_items, self.items.heads, self.items.width, generator=generator)
        return self.encode(user, items)

    def encode(self, user: torch.Tensor, items: torch.Tensor) -> tuple[Bytes, Bytes]:
        """Rows of multi-embeddings ``[1, Hu, D]`` and ``[N, Hi, D]``."""
        with torch.no_grad():
            projected = self.model.cross_attention.project_items(items)
        arrays = {name: array.numpy() for name, array in zip(ARRAYS, projected, strict=True)}
        return self.users.encode({"embedding": user.numpy()}), self.items.encode(arrays)

    def run(self, user: Bytes, items: Bytes) -> Scores:
        """What the graph gives, times tau."""
        feed = {"user_rows": self.users.values(user), "item_rows": self.items.values(items)}
        scores = self.session.run(["scores"], feed)[0]
        assert scores.dtype == np.float32
        assert scores.shape == (len(items),)
        return scores.astype(np.float64) * self.model.similarity.tau.item()

    def torch(self, user: Bytes, items: Bytes) -> Scores:
        """The model's scores of what the rows hold, times tau, in float64: every difference is the graph's."""
        model = copy.deepcopy(self.model).double()
        arrays = [torch.from_numpy(array).double() for array in self.items.decode(items).values()]
        users = torch.from_numpy(self.users.decode(user)["embedding"]).double()
        with torch.no_grad():
            whole = arrays if len(arrays) == len(ARRAYS) else model.cross_attention.project_items(*arrays)
            lists = tuple(array[None] for array in whole)
            scores = model.score_pairs(model.cross_attention.project_users(users), lists)[0]
            scaled: Scores = (scores * model.similarity.tau).numpy()
        return scaled


def make_case(shape: Shape, kind: RowKind, dtype: RowDtype, *, activation: Activation = "silu") -> Case:
    torch.manual_seed(sum(shape))
    sizes = FieldSizes(single={"age": 4}, bags={})
    num_user_heads, num_item_heads, width, attention_width = shape
    config = RankTowerConfig(
        num_user_heads=num_user_heads, num_item_heads=num_item_heads, width=width, attention_width=attention_width,
        hidden=(8,), activation=activation,
    )  # fmt: skip
    model = RankTower(config, sizes, sizes).eval()
    with torch.no_grad():
        for name, parameter in model.cross_attention.named_parameters():
            if "norm" in name:  # the initial 1 and 0 would hide a LayerNorm that is left out or swapped
                parameter.normal_(1.0 if "weight" in name else 0.2, 0.3)
            else:  # so that attention is far from uniform
                parameter.mul_(3)
    graph = build_scorer(model, kind=kind, dtype=dtype)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    users = RowLayout(num_user_heads, width, attention_width, dtype, b"\xfe\xff\x7f\x01tag!", kind="embedding")
    items = RowLayout(num_item_heads, width, attention_width, dtype, b"\xfe\xff\x7f\x01tag!", kind=kind)
    return Case(model, graph, users, items, session)


@pytest.fixture(params=[(kind, dtype) for kind in ROW_KINDS for dtype in ROW_DTYPES], ids="-".join)
def small(request: pytest.FixtureRequest) -> Case:
    """A small model of Hu = 2, Hi = 3, with each graph in turn."""
    return make_case(SMALL, *request.param)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize(("shape", "activation"), MODELS)
def test_scores_are_torchs_on_the_decoded_rows(
    shape: Shape, activation: Activation, kind: RowKind, dtype: RowDtype
) -> None:
    case = make_case(shape, kind, dtype, activation=activation)
    for num_items in COUNTS:
        user, items = case.rows(num_items)
        np.testing.assert_allclose(case.run(user, items), case.torch(user, items), atol=ATOL, rtol=0)
    assert np.ptp(case.run(user, items)) > 0.05, "the scores must differ, or their agreement says nothing"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    # The projections of float16 rows are rounded, which the formulas know nothing of.
    [("embedding", "float16"), ("embedding", "float32"), ("projected", "float32")],
)
@pytest.mark.parametrize(
    ("shape", "activation"), [(REFERENCE, "silu"), ((5, 2, 8, 24), "relu"), ((2, 3, 16, 8), "gelu"), (SMALL, "silu")]
)
def test_scores_are_the_papers(
    shape: Shape, activation: Activation, kind: RowKind, dtype: RowDtype, paper: ModuleType
) -> None:
    case = make_case(shape, kind, dtype, activation=activation)
    state = {name: tensor.double().numpy() for name, tensor in case.model.state_dict().items()}
    user, items = case.rows(12)
    e_u = case.users.decode(user)["embedding"][0].astype(np.float64)
    e_i = case.items.decode(items)["embedding"].astype(np.float64)
    expected = np.array([paper.paper_pair_score(state, e_u, one, activation=activation) for one in e_i])
    np.testing.assert_allclose(case.run(user, items), expected * case.model.similarity.tau.item(), atol=ATOL, rtol=0)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(("kind", "dtype"), [("embedding", "float16"), ("projected", "float32")])
def test_the_explanation_is_the_papers(
    kind: RowKind, dtype: RowDtype, activation: Activation, paper: ModuleType
) -> None:
    """Both attention matrices, the cosines and the contributions of each pair."""
    case = make_case(SMALL, kind, dtype, activation=activation)
    user, items = case.rows(12)
    scores, user_attention, item_attention, cosines, contributions = case.session.run(
        ["scores", "user_attention", "item_attention", "cosines", "contributions"],
        {"user_rows": case.users.values(user), "item_rows": case.items.values(items)},
    )
    state = {name: tensor.double().numpy() for name, tensor in case.model.state_dict().items()}
    phi = paper.ACTIVATIONS[activation]
    users, others = "cross_attention.user_branch", "cross_attention.item_branch"
    e_u = case.users.decode(user)["embedding"][0].astype(np.float64)
    for place, e_i in enumerate(case.items.decode(items)["embedding"].astype(np.float64)):
        weights = paper.attention(state, users, e_u, e_i, phi), paper.attention(state, others, e_i, e_u, phi)
        y_u = paper.layer_norm(e_u + paper.gau(state, users, e_u, e_i, phi), state, "user_norm")
        y_i = paper.layer_norm(e_i + paper.gau(state, others, e_i, e_u, phi), state, "item_norm")
        expected = np.array([[paper.cosine(one, other) for other in y_i] for one in y_u])
        np.testing.assert_allclose(user_attention[:, :, place], weights[0], atol=ATOL)
        np.testing.assert_allclose(item_attention[:, :, place], weights[1], atol=ATOL)
        np.testing.assert_allclose(cosines[:, :, place], expected, atol=ATOL)
        tau = case.model.similarity.tau.item()
        np.testing.assert_allclose(contributions[:, place] * tau, expected.max(axis=1), atol=ATOL)
    np.testing.assert_allclose(contributions.sum(axis=0), scores, atol=1e-5)


def test_a_list_scores_like_its_items_one_by_one(small: Case) -> None:
    user, items = small.rows(37)
    alone = [small.run(user, items[row : row + 1])[0] for row in range(37)]
    np.testing.assert_allclose(small.run(user, items), alone, atol=1e-6, rtol=0)
    np.testing.assert_allclose(small.run(user, items[::-1].copy()), alone[::-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("of_user", "of_items"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_embeddings_of_zeros(small: Case, of_user: float, of_items: float) -> None:
    user, items = small.encode(torch.full((1, 2, 8), of_user), torch.full((5, 3, 8), of_items))
    np.testing.assert_allclose(small.run(user, items), small.torch(user, items), atol=ATOL, rtol=0)


def test_an_embedding_of_zeros_between_others(small: Case) -> None:
    user, items = small.rows(5)
    _, zeros = small.encode(torch.zeros(1, 2, 8), torch.zeros(1, 3, 8))
    mixed = np.concatenate([items[:2], zeros, items[2:]])
    np.testing.assert_allclose(small.run(user, mixed), small.torch(user, mixed), atol=ATOL, rtol=0)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_attention_logits_in_the_hundreds(kind: RowKind, dtype: RowDtype) -> None:
    case = make_case(REFERENCE, kind, dtype)
    user, items = case.rows(200, scale=20.0)
    with torch.no_grad():
        asking = case.model.cross_attention.project_users(torch.from_numpy(case.users.decode(user)["embedding"]))
        asked = case.model.cross_attention.project_items(torch.from_numpy(case.items.decode(items)["embedding"]))
        logits = asking.query @ asked.key.transpose(1, 2) * case.model.cross_attention.user_branch.scale
    assert logits.abs().max() > 200  # a softmax that does not take the largest off would overflow
    # A logit's last bit is worth this much here.
    np.testing.assert_allclose(case.run(user, items), case.torch(user, items), atol=1e-3, rtol=0)
    user, items = case.rows(200, scale=100.0)
    scores = case.run(user, items)
    assert np.isfinite(scores).all()
    assert (np.abs(scores) <= 4 + ATOL).all()  # a sum of Hu cosines


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_takes_its_own_items_score_away_and_no_others(small: Case, value: float) -> None:
    """Item 2 k + 1 has the value at place k of its row and nowhere else; the even items are whole."""
    num_values = small.items.values(small.rows(1)[1]).shape[1]
    tag_values = num_values - sum(np.prod(small.items.shape(array)) for array in small.items.arrays)
    places = np.arange(tag_values, num_values)
    user, items = small.rows(2 * len(places) + 1)
    before = small.run(user, items)
    small.items.values(items)[2 * np.arange(len(places)) + 1, places] = value
    after = small.run(user, items)
    assert not np.isfinite(after[1::2]).any()
    np.testing.assert_array_equal(after[::2], before[::2])
    for row in range(1, len(items), 2):  # alone, where the processor's vectors are not filled
        assert not np.isfinite(small.run(user, items[row : row + 1])).any()


def test_a_user_with_what_is_no_number_has_no_score(small: Case) -> None:
    user, items = small.rows(3)
    values = small.users.values(user)
    for place in range(values.shape[1] - 2 * 8, values.shape[1]):
        broken = user.copy()
        small.users.values(broken)[0, place] = np.nan
        assert not np.isfinite(small.run(broken, items)).any()


def test_the_tag_has_no_influence(small: Case) -> None:
    user, items = small.rows(9)
    expected = small.run(user, items)
    for byte in (0x00, 0xFF, 0x7C, 0x7F, 0xFE):  # zeros, NaN and infinity of both dtypes among them
        user[:, :8] = items[:, :8] = byte
        np.testing.assert_array_equal(small.run(user, items), expected)
    items[:, :8] = np.random.default_rng(0).integers(0, 256, (9, 8))
    np.testing.assert_array_equal(small.run(user, items), expected)


def test_inputs_are_rows_and_outputs_are_scores_and_their_explanation(small: Case) -> None:
    itemsize = 2 if small.items.dtype == "float16" else 4
    kind = "tensor(float16)" if itemsize == 2 else "tensor(float)"
    users, items = small.session.get_inputs()
    # 8 bytes of the tag, Hu x D = 2 x 8; Hi x D = 3 x 8 and, of projected rows, four times Hi x A = 3 x 16.
    assert (users.name, users.type, users.shape) == ("user_rows", kind, [1, 8 // itemsize + 16])
    row = 8 // itemsize + 24 + (4 * 48 if small.items.kind == "projected" else 0)
    assert (items.name, items.type, items.shape) == ("item_rows", kind, ["candidates", row])
    outputs = {output.name: (output.type, output.shape) for output in small.session.get_outputs()}
    assert outputs == {
        "scores": ("tensor(float)", ["candidates"]),
        "user_attention": ("tensor(float)", [2, 3, "candidates"]),
        "item_attention": ("tensor(float)", [3, 2, "candidates"]),
        "cosines": ("tensor(float)", [2, 3, "candidates"]),
        "contributions": ("tensor(float)", [2, "candidates"]),
    }


def test_the_same_model_gives_the_same_bytes(small: Case) -> None:
    again = build_scorer(small.model, kind=small.items.kind, dtype=small.items.dtype)
    assert again.SerializeToString(deterministic=True) == small.graph.SerializeToString(deterministic=True)


def depends_on(graph: onnx.GraphProto, start: str) -> set[str]:
    """Names of the values that are computed from the input ``start``; the nodes stand in their order."""
    found = {start}
    for node in graph.node:
        if found & set(node.input):
            found |= set(node.output)
    return found


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize(("kind", "num_products"), [("projected", 1), ("embedding", 5)])
def test_nothing_that_could_be_precomputed_is_computed_for_each_item(
    kind: RowKind, num_products: int, dtype: RowDtype
) -> None:
    """Of the model's matrices only the items' output projection is multiplied with something of the items, and the four
    projections where the row holds none. All that is of the user alone is computed once, and never repeated. (Weighted
    sums over D, for LayerNorm, are matrices of one or two rows.)"""
    graph = onnx.shape_inference.infer_shapes(make_case(SMALL, kind, dtype).graph, strict_mode=True).graph
    of_items, of_user = depends_on(graph, "item_rows"), depends_on(graph, "user_rows")
    matrices = {init.name: tuple(init.dims) for init in graph.initializer if len(init.dims) == 2 and init.dims[0] > 2}
    products = [node for node in graph.node if node.op_type in {"MatMul", "Gemm", "Einsum", "Conv"}]
    online = [name for node in products if set(node.input) & of_items for name in node.input if name in matrices]
    assert len(online) == num_products
    # One is [D, A]; a projection is [A, D].
    assert sorted(matrices[name] for name in online) == [(8, 16)] + [(16, 8)] * (num_products - 1)
    assert not {node.op_type for node in graph.node} & {"Expand", "Tile", "Gather", "Loop", "Scan", "Einsum", "Concat"}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    user_alone = of_user - of_items - {"user_rows"}
    assert user_alone
    assert all(dim.HasField("dim_value") for name in user_alone for dim in shapes[name])
    assert max(np.prod([dim.dim_value for dim in shapes[name]]) for name in user_alone) <= 2 * 16 * 8  # no [N, ...]


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_only_standard_operators_that_any_runtime_has(kind: RowKind) -> None:
    graph = make_case(SMALL, kind, "float16").graph
    assert {opset.domain for opset in graph.opset_import} <= {"", "ai.onnx"}
    onnx.checker.check_model(graph, full_check=True)
