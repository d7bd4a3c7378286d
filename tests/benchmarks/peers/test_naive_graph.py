"""The peers' graph and our model are one function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from naive_graph import NaiveGraph, write_naive_graph

from ranktower.blocks import FieldSizes
from ranktower.models import RankTower, RankTowerConfig
from ranktower.onnx_runtime import onnxruntime

SIZES = FieldSizes(single={"group": 3}, bags={})


@pytest.fixture(scope="module")
def model() -> RankTower:
    torch.manual_seed(4)
    config = RankTowerConfig(num_user_heads=3, num_item_heads=2, width=8, attention_width=16)
    return RankTower(config, SIZES, SIZES).eval()


def rows(model: RankTower, num_items: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """A user, items, and the model's scores of them ``[N]`` by its own way, from projected rows."""
    user, items = torch.randn(1, 3, 8), torch.randn(num_items, 2, 8)
    with torch.no_grad():
        projected = model.cross_attention.project_items(items.unsqueeze(0))
        scores = model.score_pairs(model.cross_attention.project_users(user), projected)
    return user, items, scores.numpy().ravel()


def test_the_exported_graph_gives_the_models_scores(model: RankTower, tmp_path: Path) -> None:
    path = tmp_path / "naive.onnx"
    write_naive_graph(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num_items in (1, 2, 50):
        user, items, expected = rows(model, num_items)
        (scores,) = session.run(None, {"user": user.numpy(), "items": items.numpy()})
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_module_gives_the_models_scores(model: RankTower) -> None:
    user, items, expected = rows(model, 20)
    with torch.no_grad():
        np.testing.assert_allclose(NaiveGraph(model)(user, items).numpy(), expected, atol=1e-5)
