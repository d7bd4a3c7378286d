"""Reads what ``ranktower export`` wrote, and runs its towers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ranktower.data.encoder import EncodedFeatures
from ranktower.embedding_store.codec import ROW_DTYPES, RowDtype, RowLayout, Side
from ranktower.errors import ConfigError
from ranktower.ladder import LADDER_FILE, Ladder, LadderLevel
from ranktower.onnx_runtime import onnxruntime
from ranktower.release import FEATURES, LEVEL_GRAPHS, SCORERS, TOWERS, Shape, export_name

DESCRIPTION = "model.json"
_EVERY_DTYPE = (*TOWERS.values(), FEATURES)
_OF_A_DTYPE = (*SCORERS.values(), *LEVEL_GRAPHS.values())

# Positions of rows to the arrays of those rows, as ``write_table`` wants them.
RowFunction = Callable[[NDArray[np.int64]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class ExportedModel:
    """An export: its files, the model's shape and temperature, and where it came from."""

    folder: Path
    shape: Shape
    tau: float
    run_id: str
    data_id: str
    config: dict[str, Any]
    parity: dict[str, float]
    ladder: tuple[LadderLevel, ...]
    """Empty where ``ranktower calibrate`` has not been run."""


def read_export(folder: Path) -> ExportedModel:
    """Read an export's description.

    Raises:
        ConfigError: a file of the export is missing, its description is not one, or it is of another model.
    """
    graphs = [export_name(name, dtype) for name in _OF_A_DTYPE for dtype in ROW_DTYPES]
    _refuse_missing(folder, DESCRIPTION)
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if "name" in content:
            raise ConfigError(f"{folder}: of model.name {content['name']!r}; a release holds 'ranktower' alone")
        _refuse_missing(folder, *_EVERY_DTYPE, *graphs)
        return ExportedModel(
            folder=folder,
            shape=Shape.model_validate(content["shape"]),
            tau=float(content["tau"]),
            run_id=content["run_id"],
            data_id=content["data_id"],
            config=content["config"],
            parity=content["parity"],
            ladder=_read_ladder(folder, content["run_id"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / DESCRIPTION}: not the description of an export ({error!r})") from None


def _refuse_missing(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: no export, {name} is missing; run 'ranktower export'")


def _read_ladder(folder: Path, run_id: str) -> tuple[LadderLevel, ...]:
    path = folder / LADDER_FILE
    if not path.is_file():
        return ()
    try:
        ladder = Ladder.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {key}: {first['msg']}; run 'ranktower calibrate'") from None
    if ladder.of.get("run_id") != run_id:
        of = ladder.of.get("run_id")
        raise ConfigError(f"{path}: measured on run {of}, the export is of run {run_id}; run 'ranktower calibrate'")
    return ladder.levels


def release_files(dtype: RowDtype) -> dict[str, str]:
    """Which files of an export go into a release with rows of ``dtype``: name in the release -> name in the export."""
    return {name: export_name(name, dtype) for name in _OF_A_DTYPE} | {name: name for name in _EVERY_DTYPE}


def tower_rows(folder: Path, side: Side, features: EncodedFeatures, layout: RowLayout) -> RowFunction:
    """The tower of an export or a release over encoded features, so that a row computed offline has the bits of one
    computed online."""
    session = onnxruntime.InferenceSession(str(folder / TOWERS[side]), providers=["CPUExecutionProvider"])
    outputs = [f"{side}_{array}" for array in layout.arrays]

    def compute(positions: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        part = features.take(positions)
        feed = {"codes": part.codes.astype(np.int64)}
        for name, values in part.bags.items():
            feed[f"{name}_values"] = values.astype(np.int64)
            feed[f"{name}_length"] = part.lengths[name].astype(np.int64)
        return dict(zip(layout.arrays, session.run(outputs, feed), strict=True))

    return compute
