"""The exported graph by the native scorer and by ONNX Runtime: one file, the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_export.parity import open_session
from model_export.scorer_graph import build_scorer
from ranktower.blocks import FieldSizes
from ranktower.embedding_store.codec import ROW_DTYPES, ROW_KINDS, RowDtype, RowKind, RowLayout
from ranktower.models import RankTower, RankTowerConfig

native = pytest.importorskip("ranktower_native", reason="ranktower-native is not installed: there is no C++ compiler")

TAG = b"01234567"
NUM_ROWS = 40
ATOL = 2e-5
"""On the cosine-sum scale; float32 leaves a few 1e-7 of ordinary rows, and more of sums that nearly cancel."""
SIZES = FieldSizes({"a": 9}, {})


class Case:
    """A random model, its graph opened by both, a user and a table."""

    def __init__(
        self, folder: Path, config: RankTowerConfig, *, dtype: RowDtype, kind: RowKind, seed: int, scale: float
    ) -> None:
        torch.manual_seed(seed)
        model = RankTower(config, SIZES, SIZES).eval()
        for norm in (model.cross_attention.user_norm, model.cross_attention.item_norm):
            torch.nn.init.normal_(norm.weight, 1.0, 0.3)
            torch.nn.init.normal_(norm.bias, 0.0, 0.3)
        with torch.no_grad():
            users = scale * torch.randn(1, config.num_user_heads, config.width)
            items = model.cross_attention.project_items(
                scale * torch.randn(NUM_ROWS, config.num_item_heads, config.width)
            )
        sizes = (config.width, config.attention_width, dtype, TAG)
        self.layout = RowLayout(config.num_item_heads, *sizes, kind=kind)
        self.users = RowLayout(config.num_user_heads, *sizes, kind="embedding")
        names = ("embedding", "query", "key", "value", "gate")
        self.rows = self.layout.encode({name: part.numpy() for name, part in zip(names, items, strict=True)})
        self.user = self.users.encode({"embedding": users.numpy()})
        path = folder / "scorer.onnx"
        path.write_bytes(build_scorer(model, kind=kind, dtype=dtype).SerializeToString())
        self._session = open_session(path)
        self.native = [native.NativeScorer(*native.read_scorer(path), path=name) for name in native.paths()]
        self.tau = model.similarity.tau.item()

    def by_onnx(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        feed = {"user_rows": self.users.values(self.user), "item_rows": self.layout.values(self.rows[chosen])}
        scores: NDArray[np.float32] = self._session.run(["scores"], feed)[0]
        return scores


CONFIGS = st.builds(
    RankTowerConfig,
    num_user_heads=st.integers(1, 16),
    num_item_heads=st.integers(1, 16),
    width=st.integers(8, 256) | st.integers(8, 40),
    attention_width=st.integers(8, 256) | st.integers(8, 40),
    activation=st.sampled_from(["silu", "relu", "gelu"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=CONFIGS,
    dtype=st.sampled_from(ROW_DTYPES),
    kind=st.sampled_from(ROW_KINDS),
    seed=st.integers(0, 1 << 16),
    scale=st.sampled_from([0.0, 1e-7, 0.1, 1.0, 4.0]),
    num_candidates=st.integers(1, 65),
)
def test_any_shape_any_rows(tmp_path: Path, config: Any, num_candidates: int, seed: int, **options: Any) -> None:
    case = Case(tmp_path, config, seed=seed, **options)
    chosen = np.random.default_rng(seed).integers(0, NUM_ROWS, num_candidates)
    expected = case.by_onnx(chosen)
    for one in case.native:
        found = one.score(case.user, case.rows, chosen)
        np.testing.assert_allclose(found * case.tau, expected * case.tau, rtol=0, atol=ATOL)
        np.testing.assert_array_equal(one.score(case.user, case.rows[chosen]), found)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_number_of_candidates(tmp_path: Path, dtype: RowDtype, kind: RowKind) -> None:
    case = Case(tmp_path, RankTowerConfig(), dtype=dtype, kind=kind, seed=1, scale=1.0)
    for num_candidates in range(1, 66):
        chosen = np.random.default_rng(num_candidates).integers(0, NUM_ROWS, num_candidates)
        expected = case.by_onnx(chosen)
        for one in case.native:
            np.testing.assert_allclose(one.score(case.user, case.rows, chosen), expected, rtol=0, atol=ATOL / case.tau)


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_where_onnx_runtime_has_no_score_there_is_none(
    tmp_path: Path, dtype: RowDtype, kind: RowKind, value: float
) -> None:
    case = Case(tmp_path, RankTowerConfig(), dtype=dtype, kind=kind, seed=2, scale=1.0)
    values = case.layout.values(case.rows)
    places = np.random.default_rng(0).integers(8, values.shape[1], NUM_ROWS // 2)
    values[np.arange(0, NUM_ROWS, 2), places] = value
    chosen = np.arange(NUM_ROWS)
    expected = case.by_onnx(chosen)
    assert np.isfinite(expected).tolist() == [False, True] * (NUM_ROWS // 2)
    for one in case.native:
        found = one.score(case.user, case.rows, chosen)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
        np.testing.assert_allclose(found[1::2], expected[1::2], rtol=0, atol=ATOL / case.tau)


def test_what_is_no_table_or_no_row_number_is_refused(tmp_path: Path) -> None:
    case = Case(tmp_path, RankTowerConfig(), dtype="float16", kind="projected", seed=3, scale=1.0)
    one = case.native[0]
    for chosen, text in (([0, NUM_ROWS], r"^chosen\[1\]: row 40 of 40$"), ([-1], r"^chosen\[0\]: row -1 of 40$")):
        with pytest.raises(IndexError, match=text):
            one.score(case.user, case.rows, np.array(chosen))
    with pytest.raises(ValueError, match=r"^rows: shape \(40, 1287\), expected \(n, 1288\)"):
        one.score(case.user, case.rows[:, 1:])
    with pytest.raises(ValueError, match=r"^user: shape \(2, 264\), expected \(1, 264\)"):
        one.score(np.tile(case.user, (2, 1)), case.rows)
    with pytest.raises(ValueError, match="each row contiguous"):
        one.score(case.user, np.asfortranarray(case.rows))
    assert one.score(case.user, case.rows[:0]).shape == (0,)
