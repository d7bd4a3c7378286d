"""Scorers as torch's own exporter writes them, from rows in the order they are stored in: what was served before, and
what came before that. The baselines of ``scoring_stage.py`` and ``scorer_variants.py``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model_export.graphs import TRACED_ROWS, trace
from ranktower.blocks import ProjectedRows
from ranktower.embedding_store.codec import ARRAYS, TAG_SIZE, RowDtype
from ranktower.models import RankTower

sys.path.append(str(Path(__file__).parent / "peers"))
from naive_graph import attend


class RowMajorGraph(nn.Module):
    """Five arrays ``[1, Hu, *]`` of a user and five ``[N, Hi, *]`` of items, all float32, to logits ``[N]``."""

    def __init__(self, model: RankTower) -> None:
        super().__init__()
        self.cross_attention = model.cross_attention
        self.similarity = model.similarity

    def forward(self, *arrays: Tensor) -> Tensor:
        """Ten arrays, the user's first, to logits ``[N]``."""
        users = ProjectedRows(*arrays[: len(ARRAYS)])
        items = ProjectedRows(*(array.unsqueeze(0) for array in arrays[len(ARRAYS) :]))
        scores: Tensor = self.similarity(*self.cross_attention(users, items))
        return scores.reshape(-1)


class RowMajorFromRowsGraph(nn.Module):
    """As ``RowMajorGraph``, the items as stored rows ``[N, tag + Hi * (D + 4 A)]``, cut and widened in the graph."""

    def __init__(self, model: RankTower, dtype: RowDtype) -> None:
        super().__init__()
        self.inner = RowMajorGraph(model)
        self.heads, self.width = model.config.num_item_heads, model.config.width
        self.tag = TAG_SIZE // (2 if dtype == "float16" else 4)

    def forward(self, *arrays: Tensor) -> Tensor:
        """The user's five arrays and the items' rows to logits ``[N]``."""
        *users, rows = arrays
        values = rows[:, self.tag :].float().unflatten(1, (len(ARRAYS), self.heads, self.width))
        return self.inner(*users, *values.unbind(1))


class BroadcastUserGraph(nn.Module):
    """The paper's cross-attention with the user's side left at ``[1, Hu, *]``; items are still projected per pair."""

    def __init__(self, model: RankTower) -> None:
        super().__init__()
        self.cross_attention = model.cross_attention
        self.similarity = model.similarity

    def forward(self, user: Tensor, items: Tensor) -> Tensor:
        """``E_u [1, Hu, D]`` and ``E_i [N, Hi, D]`` to logits ``[N]``."""
        attention = self.cross_attention
        user_output = attention.user_norm(user + attend(attention.user_branch, user, items))
        item_output = attention.item_norm(items + attend(attention.item_branch, items, user))
        scores: Tensor = self.similarity(user_output, item_output)
        return scores


def row_major(model: RankTower) -> bytes:
    """``RowMajorGraph`` as ONNX: ``user_<array>`` and ``item_<array>`` to ``scores``."""
    names = [f"{side}_{array}" for side in ("user", "item") for array in ARRAYS]
    users, items = _user_arrays(model), [_random(TRACED_ROWS, model) for _ in ARRAYS]
    return _export(RowMajorGraph(model), (*users, *items), names, items=len(ARRAYS))


def row_major_from_rows(model: RankTower, dtype: RowDtype) -> bytes:
    """``RowMajorFromRowsGraph`` as ONNX: ``user_<array>`` and ``item_rows`` to ``scores``."""
    names = [*(f"user_{array}" for array in ARRAYS), "item_rows"]
    size = _random(1, model).numel() * len(ARRAYS) + TAG_SIZE // (2 if dtype == "float16" else 4)
    rows = torch.randn(TRACED_ROWS, size).to(getattr(torch, dtype))
    return _export(RowMajorFromRowsGraph(model, dtype), (*_user_arrays(model), rows), names, items=1)


def broadcast_user(model: RankTower) -> bytes:
    """``BroadcastUserGraph`` as ONNX: ``user`` and ``items`` to ``scores``."""
    return _export(BroadcastUserGraph(model), (_random(1, model), _random(TRACED_ROWS, model)), ["user", "items"])


def _user_arrays(model: RankTower) -> list[Tensor]:
    # Not one tensor five times: the exporter takes that for one input.
    return [_random(1, model) for _ in ARRAYS]


def _random(num_rows: int, model: RankTower) -> Tensor:
    """All arrays of the reference shape are alike."""
    return torch.randn(num_rows, model.config.num_item_heads, model.config.width)


def _export(module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], *, items: int = 1) -> bytes:
    """The last ``items`` inputs have N rows."""
    candidates = torch.export.Dim("candidates")
    shapes: list[Mapping[int, object]] = [{}] * (len(inputs) - items) + [{0: candidates}] * items
    dynamic = dict(zip(names, shapes, strict=True)) if names == ["user", "items"] else {"arrays": tuple(shapes)}
    proto = trace(module, inputs, input_names=names, output_names=["scores"], dynamic_shapes=dynamic)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
