"""Any trained pre-ranker to a folder of ONNX graphs with their proof. A release is made of RankTower alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model_export.export_folder import TRACED_SCORER, staged_export, write_description
from model_export.parity import RealRows
from model_export.traced_graphs import write_encoder, write_pair_scorer
from model_export.traced_parity import check_traced_parity
from ranktower.data.encoder import FeatureEncoder
from ranktower.models import PreRanker
from ranktower.models.pre_ranker import Rows
from ranktower.release import FEATURES, TOWERS
from ranktower.training.tensors import field_sizes


def export_traced(
    model: PreRanker, encoder: FeatureEncoder, out: Path, *, real: RealRows, origin: dict[str, Any]
) -> dict[str, float]:
    """Write both towers, ``scorer.onnx``, ``features.json`` and ``model.json``, or nothing at all.

    Args:
        model: the trained model.
        encoder: encodes the features that the towers take.
        out: folder to write; an export there is replaced.
        real: real users and items for the parity check.
        origin: ``run_id``, ``data_id`` and ``config`` of the training run, kept in ``model.json``.

    Returns:
        The parity figures of ``check_traced_parity``.

    Raises:
        ParityError: a graph differs from torch; ``out`` is as it was before.
        DataError: ``out`` is a file, or holds something that is of no export.
    """
    with staged_export(out) as folder:
        with torch.no_grad():
            users, items = model.encode_users(real.users), model.encode_items(real.items)
        user_slots, item_slots = encoder.user.max_lengths, encoder.item.max_lengths
        user_sizes, item_sizes = field_sizes(encoder.user), field_sizes(encoder.item)
        write_encoder(model, "user", user_sizes, folder / TOWERS["user"], bag_slots=user_slots, rows=users)
        write_encoder(model, "item", item_sizes, folder / TOWERS["item"], bag_slots=item_slots, rows=items)
        write_pair_scorer(model, folder / TRACED_SCORER, users=users, items=items)
        parity = check_traced_parity(model, folder, real)
        encoder.save(folder / FEATURES)
        rows = {"user": _shapes(users), "item": _shapes(items)}
        write_description(folder, {"name": origin["config"]["model"]["name"], "rows": rows, "parity": parity, **origin})
    return parity


def _shapes(rows: Rows) -> list[list[int]]:
    """Of one user's or item's arrays."""
    return [list(array.shape[1:]) for array in rows]
