"""Does an exported graph give torch's numbers? On random rows, on real rows, and on rows made to break it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.graphs import TowerGraph, tower_outputs
from ranktower.blocks import SideFeatures
from ranktower.embedding_store.codec import ARRAYS, ROW_DTYPES, ROW_KINDS, TAG_SIZE, RowDtype, RowKind, RowLayout
from ranktower.errors import DataError, RankTowerError
from ranktower.models import RankTower
from ranktower.release import export_name

# Candidate counts the scorer is checked at, the least and the most of a request among them.
CANDIDATE_COUNTS = (1, 2, 17, 1_000, 10_000)
TOLERANCE = 1e-5

Arrays = Sequence[NDArray[np.float32]]


class ParityError(RankTowerError):
    """An exported graph differs from torch by more than the tolerance."""


@dataclass(frozen=True)
class RealRows:
    """Features of real users and items, as the towers take them."""

    users: SideFeatures
    items: SideFeatures


def check_parity(model: RankTower, folder: Path, real: RealRows) -> dict[str, float]:
    """Greatest absolute difference between torch and ONNX Runtime, both computing in float32.

    Args:
        model: the trained model.
        folder: holds the scorers of every kind and dtype of rows, ``user_tower.onnx`` and ``item_tower.onnx``.
        real: rows of the user's own data.

    Returns:
        By check: ``scorer_random``, ``scorer_real``, ``scorer_zero`` on the cosine-sum scale (score times tau), and
        ``user_tower``, ``item_tower`` on the towers' outputs.

    Raises:
        ParityError: a difference is above 1e-5 or not a number; names the check and the figure.
    """
    scorers = [
        ScorerCheck(model, folder / export_name(kind, dtype), kind=kind, dtype=dtype)
        for kind in ROW_KINDS
        for dtype in ROW_DTYPES
    ]
    with torch.no_grad():
        users, items = tuple(model.encode_users(real.users)), tuple(model.encode_items(real.items))
        differences = {
            "scorer_random": _worst(_random_difference(model, scorer) for scorer in scorers),
            "scorer_real": _worst(_real_difference(scorer, users[0], items[0]) for scorer in scorers),
            "scorer_zero": _worst(_zero_difference(model, scorer) for scorer in scorers),
            "user_tower": _tower_difference(folder / "user_tower.onnx", model, "user", real.users, users[:1]),
            "item_tower": _tower_difference(folder / "item_tower.onnx", model, "item", real.items, items),
        }
    for check, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ParityError(
                f"parity check {check!r} failed: torch and ONNX differ by {difference:.3g} > {TOLERANCE:g}"
            )
    return differences


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class ScorerCheck:
    """One scorer graph beside the model itself."""

    def __init__(self, model: RankTower, path: Path, *, kind: RowKind, dtype: RowDtype) -> None:
        """Open the graph for item rows of ``kind``, all rows in ``dtype``."""
        self.dtype = dtype
        self._model = model
        self._session = open_session(path)
        config = model.config
        size = (config.width, config.attention_width)
        # A tag that is no finite number shows that the graph does not read it.
        self._users = RowLayout(config.num_user_heads, *size, dtype, b"\xff" * TAG_SIZE, kind="embedding")
        self._items = RowLayout(config.num_item_heads, *size, dtype, b"\xff" * TAG_SIZE, kind=kind)

    def difference(self, user: Tensor, items: Tensor) -> float:
        """Greatest difference on the cosine-sum scale, both starting from the same stored rows.

        Args:
            user: multi-embedding ``[1, Hu, D]``.
            items: multi-embeddings ``[N, Hi, D]``.
        """
        network = self._model.cross_attention
        user_rows = self._users.encode({"embedding": user.numpy()})
        projected = dict(zip(ARRAYS, network.project_items(items), strict=True))
        item_rows = self._items.encode({name: array.numpy() for name, array in projected.items()})
        stored = {name: torch.from_numpy(array) for name, array in self._items.decode(item_rows).items()}
        whole = tuple(stored.values()) if len(stored) == len(ARRAYS) else network.project_items(stored["embedding"])
        stored_user = network.project_users(torch.from_numpy(self._users.decode(user_rows)["embedding"]))
        expected = self._model.score_pairs(stored_user, tuple(array[None] for array in whole))[0].numpy()
        feed = {"user_rows": self._users.values(user_rows), "item_rows": self._items.values(item_rows)}
        scores = self._session.run(["scores"], feed)[0]
        return float(np.max(np.abs(scores - expected))) * self._model.similarity.tau.item()


def _random_difference(model: RankTower, scorer: ScorerCheck) -> float:
    generator = torch.Generator().manual_seed(0)
    config = model.config
    user = torch.randn(1, config.num_user_heads, config.width, generator=generator)
    items = torch.randn(max(CANDIDATE_COUNTS), config.num_item_heads, config.width, generator=generator)
    return _worst(scorer.difference(user, items[:count]) for count in CANDIDATE_COUNTS)


def _real_difference(scorer: ScorerCheck, users: Tensor, items: Tensor) -> float:
    try:
        return _worst(scorer.difference(users[row : row + 1], items) for row in range(len(users)))
    except DataError:
        # Too large for float16. That is no fault of the graph; precompute refuses such rows and names the value.
        return 0.0


def _zero_difference(model: RankTower, scorer: ScorerCheck) -> float:
    config = model.config
    users = torch.zeros(1, config.num_user_heads, config.width)
    return scorer.difference(users, torch.zeros(4, config.num_item_heads, config.width))


def _tower_difference(
    path: Path, model: RankTower, side: str, features: SideFeatures, expected: Sequence[Tensor]
) -> float:
    session = open_session(path)
    tensors = [features.codes]
    for values, lengths in zip(features.bag_values, features.bag_lengths, strict=True):
        tensors += [values, lengths]
    # The exporter keeps the order of the inputs; a graph with other inputs fails here.
    feed = {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), tensors, strict=True)}
    with torch.no_grad():
        wrapped = TowerGraph(model, side, len(features.bag_values))(*tensors)
    outputs = session.run(tower_outputs(side), feed)
    pairs = zip((*outputs, *outputs), (*(a.numpy() for a in wrapped), *(a.numpy() for a in expected)), strict=True)
    return _worst(float(np.max(np.abs(output - array))) for output, array in pairs)


def _worst(differences: Iterable[float]) -> float:
    """The greatest of them, NaN if one is NaN: Python's ``max`` would pass over it."""
    return float(np.max(list(differences)))
