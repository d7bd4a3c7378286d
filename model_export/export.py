"""A trained model to the folder that precompute turns into a release: its graphs, the encoder, and their proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_export.export_folder import LEVEL_FILES, SCORER_FILES, staged_export, write_description
from model_export.graphs import write_level, write_scorer, write_tower
from model_export.parity import RealRows, check_parity
from ranktower.data.encoder import FeatureEncoder
from ranktower.models import RankTower
from ranktower.release import FEATURES, TOWERS
from ranktower.training.tensors import field_sizes


def export_model(
    model: RankTower, encoder: FeatureEncoder, out: Path, *, real: RealRows, origin: dict[str, Any]
) -> dict[str, float]:
    """Write the graphs, ``features.json`` and ``model.json``, or nothing at all.

    The folder is written aside, checked against torch, and only then renamed to ``out``; an export there is replaced.

    Args:
        model: the trained model.
        encoder: encodes the features that the towers take.
        out: folder to write.
        real: real users and items for the parity check.
        origin: ``run_id``, ``data_id`` and ``config`` of the training run, kept in ``model.json``.

    Returns:
        The parity figures of ``check_parity``.

    Raises:
        ParityError: a graph differs from torch; ``out`` is as it was before.
        DataError: ``out`` is a file, or holds something that is of no export.
    """
    with staged_export(out) as folder:
        for name, (kind, dtype) in SCORER_FILES.items():
            write_scorer(model, folder / name, kind=kind, dtype=dtype)
        for name, (level, dtype) in LEVEL_FILES.items():
            write_level(model, folder / name, level=level, dtype=dtype)
        for side, side_encoder in (("user", encoder.user), ("item", encoder.item)):
            sizes = field_sizes(side_encoder)
            path = folder / TOWERS["user" if side == "user" else "item"]
            write_tower(model, side, sizes, path, bag_slots=side_encoder.max_lengths)
        parity = check_parity(model, folder, real)
        encoder.save(folder / FEATURES)
        description = {
            "shape": {
                "num_user_heads": model.config.num_user_heads,
                "num_item_heads": model.config.num_item_heads,
                "width": model.config.width,
                "attention_width": model.config.attention_width,
            },
            "tau": model.similarity.tau.item(),
            "parity": parity,
            **origin,
        }
        write_description(folder, description)
    return parity
