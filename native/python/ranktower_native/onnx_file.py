"""What the scorer needs of ``scorer.onnx``: the shape in its metadata, and its constants."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ranktower_native.library import NativeError
from ranktower_native.scorer import ScorerShape

METADATA_KEY = "ranktower_scorer"
VERSION = 1
"""Of the formulas: a graph that says another number computes something else."""
_FLOAT = 1

# The part of onnx.proto that is read, by message and field: number, type, and whether there are several.
_FIELDS: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Tensor": {
        "dims": (1, "INT64", True), "data_type": (2, "INT32", False), "name": (8, "STRING", False),
        "raw_data": (9, "BYTES", False),
    },
    "Entry": {"key": (1, "STRING", False), "value": (2, "STRING", False)},
    "Graph": {"initializer": (5, ".ranktower.Tensor", True)},
    "Model": {"graph": (7, ".ranktower.Graph", False), "metadata_props": (14, ".ranktower.Entry", True)},
}  # fmt: skip


def read_scorer(path: Path) -> tuple[ScorerShape, dict[str, NDArray[np.float32]]]:
    """Shape and float32 constants of the graph in ``path``, for ``NativeScorer``.

    Raises:
        NativeError: the file cannot be read, is no ONNX, or is no scorer of a known version.
    """
    try:
        model = _model_class().FromString(path.read_bytes())
    except OSError as error:
        raise NativeError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise NativeError(f"{path}: not an ONNX file: {error}") from error
    told = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in told:
        raise NativeError(f"{path}: has no {METADATA_KEY} in its metadata; export the model again")
    shape = _shape(path, told[METADATA_KEY])
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == _FLOAT]
    try:
        return shape, {
            tensor.name: np.frombuffer(tensor.raw_data, dtype="<f4").reshape(tuple(tensor.dims)) for tensor in floats
        }
    except ValueError as error:
        raise NativeError(f"{path}: a constant has other bytes than its shape says: {error}") from error


def _shape(path: Path, text: str) -> ScorerShape:
    try:
        keys = json.loads(text)
        version = keys.pop("version")
        if version != VERSION:
            raise NativeError(f"{path}: scorer of version {version}, known is {VERSION}")
        return ScorerShape(**keys)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NativeError(f"{path}: {METADATA_KEY} is {text!r:.200}: {type(error).__name__}: {error}") from error


@cache
def _model_class() -> Any:
    """A message class that reads what ``_FIELDS`` names of a model and skips the rest."""
    file = descriptor_pb2.FileDescriptorProto(name="ranktower_onnx.proto", package="ranktower", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, is_list) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if is_list else field.LABEL_OPTIONAL
            if kind.startswith("."):
                field.type, field.type_name = field.TYPE_MESSAGE, kind
            else:
                field.type = getattr(field, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ranktower.Model"))
