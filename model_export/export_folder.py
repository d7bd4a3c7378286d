"""The folder of an export: which files are in it, and how it comes into being as a whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ranktower.embedding_store.codec import ROW_DTYPES, ROW_KINDS
from ranktower.errors import ConfigError
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


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place at the end; after an error ``out`` is as it was before.

    Raises:
        ConfigError: ``out`` holds something that is no export.
    """
    _refuse_foreign(out)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def _refuse_foreign(out: Path) -> None:
    """An export is replaced as a whole folder, so nothing else may lie in it."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is not a folder; give another --out")
    names = {path.name for path in out.iterdir() if path.suffix != ".part"} if out.is_dir() else set()
    foreign = sorted(names - {*_RANKTOWER, *_TRACED, LADDER_FILE})
    if foreign:
        raise ConfigError(f"{out}: holds {foreign[0]!r}, which is of no export; give another --out")
