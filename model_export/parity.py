"""Does an exported graph give torch's numbers? On random rows, on real rows, and on rows made to break it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.graphs import tower_outputs
from ranktower.blocks import ProjectedRows, SideFeatures
from ranktower.blocks.maximum_similarity import unit_length
from ranktower.embedding_store.codec import ARRAYS, ROW_DTYPES, ROW_KINDS, TAG_SIZE, RowDtype, RowKind, RowLayout, Side
from ranktower.errors import DataError, RankTowerError
from ranktower.models import RankTower
from ranktower.onnx_runtime import onnxruntime
from ranktower.release import LEVEL_GRAPHS, SCORERS, TOWERS, LevelGraph, export_name

# Candidate counts the scorer is checked at, the least and the most of a request among them.
CANDIDATE_COUNTS = (1, 2, 17, 1_000, 10_000)
TOLERANCE = 1e-5
_TAG = b"\xff" * TAG_SIZE  # no finite number in either dtype: shows that a graph does not read it

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
        folder: holds the scorers of every kind and dtype of rows, the ladder's graphs of every dtype,
            ``user_tower.onnx`` and ``item_tower.onnx``.
        real: rows of the user's own data.

    Returns:
        By check: ``scorer_random``, ``scorer_real``, ``scorer_zero``, ``maxsim`` and ``pooled`` on the cosine-sum scale
        (score times tau), ``explanation`` on that of one cosine or weight, and ``user_tower``, ``item_tower`` on the
        towers' outputs.

    Raises:
        ParityError: a difference is above 1e-5 or not a number; names the check and the figure.
    """
    scorers = [
        ScorerCheck(model, folder / export_name(SCORERS[kind], dtype), kind=kind, dtype=dtype)
        for kind in ROW_KINDS
        for dtype in ROW_DTYPES
    ]
    with torch.no_grad():
        users, items = tuple(model.encode_users(real.users)), tuple(model.encode_items(real.items))
        differences = {
            "scorer_random": worst(_random_difference(model, scorer) for scorer in scorers),
            "scorer_real": worst(_real_difference(scorer, users[0], items[0]) for scorer in scorers),
            "scorer_zero": worst(_zero_difference(model, scorer) for scorer in scorers),
            "explanation": worst(scorer.explanation_difference(*_random_rows(model, 100)) for scorer in scorers),
            "maxsim": _level_difference(model, folder, "maxsim"),
            "pooled": _level_difference(model, folder, "pooled"),
            "user_tower": _tower_difference(folder, "user", real.users, users[:1]),
            "item_tower": _tower_difference(folder, "item", real.items, items),
        }
    refuse_differences(differences)
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
        self._users = RowLayout(config.num_user_heads, *size, dtype, _TAG, kind="embedding")
        self._items = RowLayout(config.num_item_heads, *size, dtype, _TAG, kind=kind)

    def difference(self, user: Tensor, items: Tensor) -> float:
        """Greatest difference on the cosine-sum scale, both starting from the same stored rows.

        Args:
            user: multi-embedding ``[1, Hu, D]``.
            items: multi-embeddings ``[N, Hi, D]``.
        """
        feed, stored_user, stored_items = self._stored(user, items)
        expected = self._model.score_pairs(stored_user, stored_items)[0].numpy()
        scores = self._session.run(["scores"], feed)[0]
        return float(np.max(np.abs(scores - expected))) * self._model.similarity.tau.item()

    def explanation_difference(self, user: Tensor, items: Tensor) -> float:
        """Greatest difference of what the graph gives beside the scores; contributions count times tau."""
        feed, stored_user, stored_items = self._stored(user, items)
        expected = explain(self._model, stored_user, stored_items)
        given = dict(zip(expected, self._session.run(list(expected), feed), strict=True))
        for side in (expected, given):
            side["contributions"] = side["contributions"] * self._model.similarity.tau.item()
        return worst(float(np.max(np.abs(given[name] - expected[name].numpy()))) for name in expected)

    def _stored(
        self, user: Tensor, items: Tensor
    ) -> tuple[dict[str, NDArray[np.floating]], ProjectedRows, ProjectedRows]:
        """What both start from: the graph's inputs, and the same rows as the model takes them."""
        network = self._model.cross_attention
        user_rows = self._users.encode({"embedding": user.numpy()})
        projected = dict(zip(ARRAYS, network.project_items(items), strict=True))
        item_rows = self._items.encode({name: array.numpy() for name, array in projected.items()})
        stored = [torch.from_numpy(array) for array in self._items.decode(item_rows).values()]
        whole = stored if len(stored) == len(ARRAYS) else network.project_items(stored[0])
        stored_user = network.project_users(torch.from_numpy(self._users.decode(user_rows)["embedding"]))
        feed = {"user_rows": self._users.values(user_rows), "item_rows": self._items.values(item_rows)}
        return feed, stored_user, ProjectedRows(*(array[None] for array in whole))


def explain(model: RankTower, user: ProjectedRows, items: ProjectedRows) -> dict[str, Tensor]:
    """What the graph gives beside the scores, of rows ``[1, Hu, *]`` and ``[1, N, Hi, *]``; candidates last."""
    network = model.cross_attention
    towards_items = items.key[0] @ user.query[0].T * network.user_branch.scale  # [N, Hi, Hu]
    towards_user = items.query[0] @ user.key[0].T * network.item_branch.scale
    users, others = network(user, items)
    cosines = (unit_length(users) @ unit_length(others).transpose(-1, -2))[0]
    return {
        "user_attention": towards_items.softmax(dim=1).permute(2, 1, 0),
        "item_attention": towards_user.softmax(dim=2).permute(1, 2, 0),
        "cosines": cosines.permute(1, 2, 0),
        "contributions": (cosines.amax(dim=2) / model.similarity.tau).T,
    }


def level_scores(model: RankTower, level: LevelGraph, user: Tensor, items: Tensor) -> Tensor:
    """Scores ``[N]`` of a lower level, of multi-embeddings ``[1, Hu, D]`` and ``[N, Hi, D]``."""
    if level == "maxsim":
        users, others = model.cross_attention.user_norm(user), model.cross_attention.item_norm(items)
    else:
        users, others = user, items.sum(dim=1, keepdim=True)
    scores: Tensor = model.similarity(users, others)
    return scores


def embedding_rows(embedding: Tensor, dtype: RowDtype) -> NDArray[np.floating]:
    """Multi-embeddings ``[n, H, D]`` as stored rows, in the form that the graphs take them."""
    _, heads, width = embedding.shape
    layout = RowLayout(heads, width, width, dtype, _TAG, kind="embedding")
    return layout.values(layout.encode({"embedding": embedding.numpy()}))


def _level_difference(model: RankTower, folder: Path, level: LevelGraph) -> float:
    """Over random rows and zeros, of both dtypes."""
    user, items = _random_rows(model, 1000)
    items[-1] = 0
    differences = []
    for dtype in ROW_DTYPES:
        session = open_session(folder / export_name(LEVEL_GRAPHS[level], dtype))
        for one in (user, torch.zeros_like(user)):
            feed = {"user_rows": embedding_rows(one, dtype), "item_rows": embedding_rows(items, dtype)}
            stored = (side.to(getattr(torch, dtype)).float() for side in (one, items))
            expected = level_scores(model, level, *stored).numpy()
            differences.append(float(np.max(np.abs(session.run(["scores"], feed)[0] - expected))))
    return worst(differences) * model.similarity.tau.item()


def _random_difference(model: RankTower, scorer: ScorerCheck) -> float:
    user, items = _random_rows(model, max(CANDIDATE_COUNTS))
    return worst(scorer.difference(user, items[:count]) for count in CANDIDATE_COUNTS)


def _random_rows(model: RankTower, num_items: int) -> tuple[Tensor, Tensor]:
    """Multi-embeddings ``[1, Hu, D]`` and ``[num_items, Hi, D]``."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    user = torch.randn(1, config.num_user_heads, config.width, generator=generator)
    return user, torch.randn(num_items, config.num_item_heads, config.width, generator=generator)


def _real_difference(scorer: ScorerCheck, users: Tensor, items: Tensor) -> float:
    try:
        return worst(scorer.difference(users[row : row + 1], items) for row in range(len(users)))
    except DataError:
        # Too large for float16. That is no fault of the graph; precompute refuses such rows and names the value.
        return 0.0


def _zero_difference(model: RankTower, scorer: ScorerCheck) -> float:
    config = model.config
    users = torch.zeros(1, config.num_user_heads, config.width)
    return scorer.difference(users, torch.zeros(4, config.num_item_heads, config.width))


def _tower_difference(folder: Path, side: Side, features: SideFeatures, expected: Sequence[Tensor]) -> float:
    pairs = zip(run_tower(folder / TOWERS[side], features, tower_outputs(side)), expected, strict=True)
    return worst(float(np.max(np.abs(output - array.numpy()))) for output, array in pairs)


def run_tower(path: Path, features: SideFeatures, outputs: Sequence[str]) -> Arrays:
    """What a tower's graph gives under ``outputs``."""
    session = open_session(path)
    tensors = [features.codes]
    for values, lengths in zip(features.bag_values, features.bag_lengths, strict=True):
        tensors += [values, lengths]
    # The exporter keeps the order of the inputs; a graph with other inputs fails here.
    feed = {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), tensors, strict=True)}
    arrays: Arrays = session.run(list(outputs), feed)
    return arrays


def refuse_differences(differences: Mapping[str, float]) -> None:
    """ParityError for the first check whose difference is above the tolerance or not a number."""
    for check, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ParityError(
                f"parity check {check!r} failed: torch and ONNX differ by {difference:.3g} > {TOLERANCE:g}"
            )


def worst(differences: Iterable[float]) -> float:
    """The greatest of them, NaN if one is NaN: Python's ``max`` would pass over it."""
    return float(np.max(list(differences)))
