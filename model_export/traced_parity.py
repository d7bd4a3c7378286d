"""Do traced graphs give torch's numbers? On real rows, on random rows, and on features and rows made to break them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.export_folder import TRACED_SCORER
from model_export.parity import RealRows, open_session, refuse_differences, run_tower, worst
from model_export.traced_graphs import row_names
from ranktower.blocks import SideFeatures
from ranktower.embedding_store.codec import Side
from ranktower.models import PreRanker
from ranktower.models.pre_ranker import Rows
from ranktower.release import TOWERS
from ranktower.training.tensors import take

CANDIDATE_COUNTS = (1, 2, 17, 1_000)
# Real rows times this: no model gives such rows, and no graph may give another answer to them than torch.
HUGE = 1e3


def check_traced_parity(model: PreRanker, folder: Path, real: RealRows) -> dict[str, float]:
    """Greatest difference between torch and ONNX Runtime, both in float32, as a share of the greatest value.

    The share is of the greatest absolute value of an array of rows or of a list of scores, and of 1 where that is less:
    the scale of rows and logits is a model's own.

    Args:
        model: the trained model.
        folder: holds the graphs of ``model_export.traced_graphs``.
        real: rows of the user's own data.

    Returns:
        By check: ``user_tower`` and ``item_tower`` on real features, and on unknown ones with empty bags;
        ``scorer_real`` on their rows, ``scorer_random`` on normal ones, ``scorer_zero`` and ``scorer_huge``.

    Raises:
        ParityError: a difference is above 1e-5 or not a number; names the check and the figure.
    """
    with torch.no_grad():
        users, items = model.encode_users(real.users), model.encode_items(real.items)
        scorer = _ScorerCheck(model, folder)
        differences = {
            "user_tower": _tower_difference(model, folder, "user", real.users),
            "item_tower": _tower_difference(model, folder, "item", real.items),
            "scorer_real": worst(
                scorer.difference(tuple(array[row : row + 1] for array in users), items)
                for row in range(len(real.users.codes))
            ),
            "scorer_random": worst(
                scorer.difference(_random(users, 1, seed=1), _random(items, count, seed=2))
                for count in CANDIDATE_COUNTS
            ),
            "scorer_zero": scorer.difference(_scaled(users, 0.0), _scaled(items, 0.0)),
            "scorer_huge": scorer.difference(_scaled(users, HUGE), _scaled(items, HUGE)),
        }
    refuse_differences(differences)
    return differences


class _ScorerCheck:
    """The scorer's graph beside the model."""

    def __init__(self, model: PreRanker, folder: Path) -> None:
        self._model, self._session = model, open_session(folder / TRACED_SCORER)

    def difference(self, users: Rows, items: Rows) -> float:
        """Of the scores of the first user's items, rows ``[n, ...]``."""
        user = tuple(array[:1] for array in users)
        names = row_names("user", user) + row_names("item", items)
        feed = {name: array.numpy() for name, array in zip(names, (*user, *items), strict=True)}
        expected = self._model.score_pairs(user, tuple(array.unsqueeze(0) for array in items))[0]
        return _share(self._session.run(["scores"], feed), [expected])


def _tower_difference(model: PreRanker, folder: Path, side: Side, real: SideFeatures) -> float:
    encode = model.encode_users if side == "user" else model.encode_items
    return worst(
        _share(run_tower(folder / TOWERS[side], features, row_names(side, rows)), rows)
        for features in (real, _unknown(real))
        for rows in (encode(features),)
    )


def _unknown(real: SideFeatures) -> SideFeatures:
    """One user or item of whom nothing is known: every code out of vocabulary, every bag empty."""
    codes, values, lengths = take(real, torch.tensor([0]))
    return SideFeatures(torch.zeros_like(codes), values, tuple(map(torch.zeros_like, lengths)))


def _random(rows: Rows, count: int, *, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, *array.shape[1:], generator=generator) for array in rows)


def _scaled(rows: Rows, factor: float) -> Rows:
    return tuple(array * factor for array in rows)


def _share(outputs: Sequence[NDArray[np.float32]], expected: Sequence[Tensor]) -> float:
    arrays = [array.numpy() for array in expected]
    return worst(
        float(np.max(np.abs(output - array))) / max(1.0, float(np.max(np.abs(array))))
        for output, array in zip(outputs, arrays, strict=True)
    )
