"""A trained model to the folder that precompute turns into a release: its graphs, the encoder, and their proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from model_export.graphs import write_level, write_scorer, write_tower
from model_export.parity import RealRows, check_parity
from ranktower.data.encoder import FeatureEncoder
from ranktower.embedding_store.codec import ROW_DTYPES, ROW_KINDS
from ranktower.errors import ConfigError
from ranktower.ladder import LADDER_FILE
from ranktower.models import RankTower
from ranktower.release import FEATURES, LEVEL_GRAPHS, SCORERS, TOWERS, export_name
from ranktower.training.tensors import field_sizes

MODEL_FILE = "model.json"
_SCORERS = {export_name(SCORERS[kind], dtype): (kind, dtype) for kind in ROW_KINDS for dtype in ROW_DTYPES}
_LEVELS = {export_name(name, dtype): (level, dtype) for level, name in LEVEL_GRAPHS.items() for dtype in ROW_DTYPES}
_FILES = (MODEL_FILE, FEATURES, *TOWERS.values(), *_SCORERS, *_LEVELS)


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
        ConfigError: ``out`` holds something that is no export.
    """
    _refuse_foreign(out)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for name, (kind, dtype) in _SCORERS.items():
            write_scorer(model, aside / name, kind=kind, dtype=dtype)
        for name, (level, dtype) in _LEVELS.items():
            write_level(model, aside / name, level=level, dtype=dtype)
        for side, side_encoder in (("user", encoder.user), ("item", encoder.item)):
            sizes = field_sizes(side_encoder)
            path = aside / TOWERS["user" if side == "user" else "item"]
            write_tower(model, side, sizes, path, bag_slots=side_encoder.max_lengths)
        parity = check_parity(model, aside, real)
        encoder.save(aside / FEATURES)
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
        (aside / MODEL_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return parity


def _refuse_foreign(out: Path) -> None:
    """An export is replaced as a whole folder, so nothing else may lie in it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is not a folder; give another --out")
    names = {path.name for path in out.iterdir() if path.suffix != ".part"} if out.is_dir() else set()
    foreign = sorted(names - {*_FILES, LADDER_FILE})
    if foreign:
        raise ConfigError(f"{out}: holds {foreign[0]!r}, which is of no export; give another --out")


def read_description(out: Path) -> dict[str, Any] | None:
    """``model.json`` of a whole export, None where there is none."""
    if not all((out / name).is_file() for name in _FILES):
        return None
    content: dict[str, Any] = json.loads((out / MODEL_FILE).read_text(encoding="utf-8"))
    return content
