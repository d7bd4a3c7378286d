"""Stored rows of the reference shape and the scores that torch gives them, for what is measured of the graph alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from reference_release import reference_model

from ranktower.blocks import ProjectedRows
from ranktower.embedding_store.codec import ARRAYS, RowDtype, RowKind, RowLayout
from ranktower.models import RankTower
from ranktower.onnx_runtime import onnxruntime

_TAG = b"\xff" * 8  # a NaN in both dtypes: a graph that computed with it would not pass


def varied_model() -> RankTower:
    """The reference model with norms that are not the identity, so that a variant which forgets them differs."""
    model = reference_model()
    generator = torch.Generator().manual_seed(1)
    for norm in (model.cross_attention.user_norm, model.cross_attention.item_norm):
        norm.weight.data = 1.0 + 0.2 * torch.randn(norm.weight.shape, generator=generator)
        norm.bias.data = 0.2 * torch.randn(norm.bias.shape, generator=generator)
    return model


@dataclass(frozen=True)
class ScorerInputs:
    """One user and N items.

    Attributes:
        user_rows: ``[1, tag + Hu * D]`` in the rows' dtype.
        item_rows: ``[N, row_size / itemsize]``.
        users, items: the same as five float32 arrays ``[1, Hu, *]`` and ``[N, Hi, *]``, by name.
        expected: torch's scores ``[N]`` of the stored, so rounded, values.
    """

    user_rows: NDArray[np.floating]
    item_rows: NDArray[np.floating]
    users: dict[str, NDArray[np.float32]]
    items: dict[str, NDArray[np.float32]]
    expected: NDArray[np.float32]

    @property
    def rows(self) -> dict[str, NDArray[np.floating]]:
        """The feed of today's graph."""
        return {"user_rows": self.user_rows, "item_rows": self.item_rows}

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The feed of the row-major graph."""
        users = {f"user_{name}": array for name, array in self.users.items()}
        return users | {f"item_{name}": array for name, array in self.items.items()}

    @property
    def embeddings(self) -> dict[str, NDArray[np.float32]]:
        """The feed of the naive graphs."""
        return {"user": self.users["embedding"], "items": self.items["embedding"]}


def make_inputs(model: RankTower, num_items: int, *, kind: RowKind, dtype: RowDtype) -> ScorerInputs:
    """Random multi-embeddings, stored as rows of a kind and dtype and read back."""
    config, network = model.config, model.cross_attention
    users = RowLayout(config.num_user_heads, config.width, config.attention_width, dtype, _TAG, "embedding")
    items = RowLayout(config.num_item_heads, config.width, config.attention_width, dtype, _TAG, kind)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        embeddings = (
            torch.randn(1, config.num_user_heads, config.width, generator=generator),
            torch.randn(num_items, config.num_item_heads, config.width, generator=generator),
        )
        user_raw = users.encode({"embedding": embeddings[0].numpy()})
        item_raw = items.encode(_named(network.project_items(embeddings[1])))
        stored = items.decode(item_raw)
        user = network.project_users(torch.from_numpy(users.decode(user_raw)["embedding"]))
        if kind == "projected":
            projected = ProjectedRows(*(torch.from_numpy(stored[name]) for name in ARRAYS))
        else:
            projected = network.project_items(torch.from_numpy(stored["embedding"]))
        expected = model.score_pairs(user, ProjectedRows(*(array[None] for array in projected)))[0].numpy()
    return ScorerInputs(users.values(user_raw), items.values(item_raw), _named(user), _named(projected), expected)


def _named(arrays: tuple[torch.Tensor, ...]) -> dict[str, NDArray[np.float32]]:
    return {name: array.numpy() for name, array in zip(ARRAYS, arrays, strict=True)}


def open_graph(
    content: bytes,
    *,
    change: Callable[[onnxruntime.SessionOptions], None] = lambda options: None,
    disabled: tuple[str, ...] = (),
) -> onnxruntime.InferenceSession:
    """A session as the service opens it, with ``change`` made to its options and some optimisers left out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    change(options)
    chosen = {"disabled_optimizers": list(disabled)} if disabled else {}
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], **chosen)
