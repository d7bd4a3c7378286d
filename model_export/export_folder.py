"""The folder of an export: which files are in it, and how it comes into being as a whole or not at all."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ranktower.data.staged_folder import staged_folder
from ranktower.embedding_store.codec import ROW_DTYPES, ROW_KINDS
from ranktower.ladder import LADDER_FILE
from ranktower.release import FEATURES, LEVEL_GRAPHS, SCORERS, TOWERS, export_name

MODEL_FILE = "model.json"
# Of RankTower, whose graphs take the rows of a release: what each is made for, by name.
SCORER_FILES = {export_name(SCORERS[kind], dtype): (kind, dtype) for kind in ROW_KINDS for dtype in ROW_DTYPES}
LEVEL_FILES = {export_name(name, dtype): (level, dtype) for level, name in LEVEL_GRAPHS.items() for dtype in ROW_DTYPES}
# Of every other model, which has one.
TRACED_SCORER = "scorer.onnx"

_EVERY_MODEL = (MODEL_FILE, FEATURES, *TOWERS.values())
_RANKTOWER = (*_EVERY_MODEL, *SCORER_FILES, *LEVEL_FILES)
_TRACED = (*_EVERY_MODEL, TRACED_SCORER)


def staged_export(out: Path) -> AbstractContextManager[Path]:
    """A new folder that takes the place of ``out`` at the end; after an error ``out`` is as it was before.

    Raises:
        DataError: ``out`` is a file, or holds something that is of no export.
    """
    # What a killed calibrate has left unfinished belongs to the export too.
    return staged_folder(out, owned=(*_RANKTOWER, *_TRACED, LADDER_FILE, f".{LADDER_FILE}.*.part"))


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``model.json``."""
    (folder / MODEL_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_description(out: Path) -> dict[str, Any] | None:
    """``model.json`` of a whole export, None where there is none."""
    if not (out / MODEL_FILE).is_file():
        return None
    content: dict[str, Any] = json.loads((out / MODEL_FILE).read_text(encoding="utf-8"))
    files = _TRACED if "name" in content else _RANKTOWER
    return content if all((out / name).is_file() for name in files) else None
