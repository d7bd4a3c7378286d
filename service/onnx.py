"""ONNX Runtime sessions as the service runs them: one thread each, because a worker is one core."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ranktower.errors import ReleaseError
from ranktower.onnx_runtime import onnxruntime

ort = onnxruntime.capi.onnxruntime_pybind11_state
# ONNX Runtime's errors have no common base class of their own.
ONNX_ERRORS: tuple[type[Exception], ...] = (
    ort.EPFail,
    ort.EngineError,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoModel,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
)


def open_session(path: Path, *, inputs: Sequence[str], outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session whose graph has exactly these inputs and at least these outputs.

    Raises:
        ReleaseError: the file is no graph ONNX Runtime can run, or has other inputs or outputs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ONNX_ERRORS as error:
        raise ReleaseError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    found = {value.name for value in session.get_inputs()}
    if found != set(inputs):
        raise ReleaseError(f"{path}: inputs are {sorted(found)}, expected {sorted(inputs)}")
    absent = set(outputs) - {value.name for value in session.get_outputs()}
    if absent:
        raise ReleaseError(f"{path}: outputs {sorted(absent)} are missing")
    return session
