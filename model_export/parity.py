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

from model_export.graphs import ARRAYS, ScorerGraph, TowerGraph
from ranktower.blocks import SideFeatures
from ranktower.errors import RankTowerError
from ranktower.models import RankTower

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
    """Greatest absolute difference between torch and ONNX Runtime, both in float32.

    Args:
        model: the trained model.
        folder: holds ``scorer.onnx``, ``user_tower.onnx``, ``item_tower.onnx``.
        real: rows of the user's own data.

    Returns:
        By check: ``scorer_random``, ``scorer_real``, ``scorer_zero`` on the cosine-sum scale (score times tau), and
        ``user_tower``, ``item_tower`` on the towers' outputs.

    Raises:
        ParityError: a difference is above 1e-5 or not a number; names the check and the figure.
    """
    session = open_session(folder / "scorer.onnx")
    with torch.no_grad():
        users, items = tuple(model.encode_users(real.users)), tuple(model.encode_items(real.items))
        differences = {
            "scorer_random": _random_difference(model, session),
            "scorer_real": _real_difference(model, session, users, items),
            "scorer_zero": _zero_difference(model, session),
            "user_tower": _tower_difference(folder / "user_tower.onnx", model, "user", real.users, users),
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


def _scorer_difference(
    model: RankTower, session: onnxruntime.InferenceSession, users: Sequence[Tensor], items: Sequence[Tensor]
) -> float:
    expected = ScorerGraph(model)(*users, *items).numpy()
    names = [f"{side}_{array}" for side in ("user", "item") for array in ARRAYS]
    feed = {name: array.numpy() for name, array in zip(names, (*users, *items), strict=True)}
    scores = session.run(["scores"], feed)[0]
    return float(np.max(np.abs(scores - expected))) * model.similarity.tau.item()


def _random_difference(model: RankTower, session: onnxruntime.InferenceSession) -> float:
    generator = torch.Generator().manual_seed(0)
    lists = (_random_rows(model, num_candidates, generator) for num_candidates in CANDIDATE_COUNTS)
    return _worst(_scorer_difference(model, session, users, items) for users, items in lists)


def _real_difference(
    model: RankTower, session: onnxruntime.InferenceSession, users: Sequence[Tensor], items: Sequence[Tensor]
) -> float:
    each = ([array[row : row + 1] for array in users] for row in range(len(users[0])))
    return _worst(_scorer_difference(model, session, user, items) for user in each)


def _zero_difference(model: RankTower, session: onnxruntime.InferenceSession) -> float:
    users, items = _random_rows(model, 4, torch.Generator().manual_seed(1))
    return _scorer_difference(model, session, [a * 0 for a in users], [a * 0 for a in items])


def _random_rows(
    model: RankTower, num_candidates: int, generator: torch.Generator
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    config, network = model.config, model.cross_attention
    users = torch.randn(1, config.num_user_heads, config.width, generator=generator)
    items = torch.randn(num_candidates, config.num_item_heads, config.width, generator=generator)
    return network.project_users(users), network.project_items(items)


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
    outputs = session.run([f"{side}_{array}" for array in ARRAYS], feed)
    pairs = zip((*outputs, *outputs), (*(a.numpy() for a in wrapped), *(a.numpy() for a in expected)), strict=True)
    return _worst(float(np.max(np.abs(output - array))) for output, array in pairs)


def _worst(differences: Iterable[float]) -> float:
    """The greatest of them, NaN if one is NaN: Python's ``max`` would pass over it."""
    return float(np.max(list(differences)))
