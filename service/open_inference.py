"""Requests and answers of the Open Inference Protocol, version 2, over REST: tensors in JSON or, by the extension for
binary tensors, behind it. The model's inputs are a user and its candidates, its outputs their scores.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from service.answering import Scored
from service.errors import MalformedError, TooManyCandidatesError
from service.parsing import Id, ScoreQuery, budget_of, kind_of, load_object, shown
from service.settings import Settings

HEADER_LENGTH = b"inference-header-content-length"
"""The header with the size of the JSON, where binary tensors stand behind it."""

NO_SCORE = np.finfo(np.float32).min
"""In ``scores`` where ``present`` is false. JSON has no NaN; and who overlooks ``present`` sorts these last."""

INPUTS = {"user_id": ("BYTES", [1]), "candidate_ids": ("BYTES", [-1])}
OUTPUTS = {"scores": ("FP32", [-1]), "present": ("BOOL", [-1])}
"""Names to datatype and shape, as the model's metadata has them. The ids may be INT64 as well."""

_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_PARAMETERS = frozenset({"budget_ms", "timeout", "priority", "binary_data_output"})
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InferQuery(ScoreQuery):
    """Body of ``POST /v2/models/{model}/infer``."""

    infer_id: str | None
    """The ``id`` that the answer is to repeat."""
    shape: list[int]
    """Of ``candidate_ids``, and so of the outputs."""
    outputs: Mapping[str, bool]
    """Names of the outputs asked for, in their order: whether each is to be binary."""
    is_low: bool
    """Whether it comes after all other requests."""


def parse_infer(body: bytes, settings: Settings, *, header_length: str = "") -> InferQuery:
    """The query in ``body``, of which the first ``header_length`` bytes are JSON; all of it where that is empty.

    Raises:
        MalformedError: not JSON, an unknown or absent field, tensor or parameter, a wrong datatype, shape, size or
            value; names it.
        TooManyCandidatesError: more than ``limits.max_candidates``.
    """
    head, tensors = _split(body, header_length)
    content = load_object(head, _FIELDS)
    infer_id = content.get("id")
    if infer_id is not None and type(infer_id) is not str:
        raise MalformedError(f"id: must be a string, not {kind_of(infer_id)}")
    parameters = _parameters(content, "", _PARAMETERS)
    inputs, shape = _inputs(content, tensors, settings.limits.max_candidates)
    return InferQuery(
        user_id=inputs["user_id"][0],
        candidate_ids=inputs["candidate_ids"],
        budget_ms=_budget_ms(parameters, settings.budget.max_ms),
        infer_id=infer_id,
        shape=shape,
        outputs=_outputs(content, _flag(parameters, "binary_data_output")),
        is_low=_priority(parameters) > 1,
    )


def infer_response(query: InferQuery, scored: Scored, content: Mapping[str, Any]) -> Response:
    """The answer: ``content``, the query's id, and the outputs asked for, binary ones behind the JSON."""
    present = np.ones(len(scored.scores), dtype=np.bool_)
    present[scored.missing] = False
    arrays = {"scores": np.where(present, scored.scores, NO_SCORE).astype("<f4", copy=False), "present": present}
    outputs, parts = [], [b""]
    for name, is_binary in query.outputs.items():
        output: dict[str, Any] = {"name": name, "shape": query.shape, "datatype": OUTPUTS[name][0]}
        if is_binary:
            parts.append(arrays[name].tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = arrays[name]
        outputs.append(output)
    identity = {} if query.infer_id is None else {"id": query.infer_id}
    parts[0] = orjson.dumps({**content, **identity, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(parts) == 1:
        return Response(parts[0], media_type="application/json")
    headers = {HEADER_LENGTH.decode(): str(len(parts[0]))}
    return Response(b"".join(parts), headers=headers, media_type="application/octet-stream")


class _BinaryTensors:
    """What stands behind the JSON, one tensor after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._taken = 0

    @property
    def num_left(self) -> int:
        return len(self._content) - self._taken

    def take(self, size: Any, where: str) -> bytes:
        """The bytes of the next tensor."""
        if type(size) is not int or not 0 <= size <= self.num_left:
            raise MalformedError(
                f"{where}: must be the number of bytes of this tensor; {self.num_left} stand behind the JSON,"
                f" got {shown(size)}"
            )
        self._taken += size
        return self._content[self._taken - size : self._taken]


def _split(body: bytes, header_length: str) -> tuple[bytes, _BinaryTensors]:
    if not header_length:
        return body, _BinaryTensors(b"")
    size = int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 16 else -1
    if not 0 <= size <= len(body):
        raise MalformedError(
            f"{HEADER_LENGTH.decode()}: must be the size of the JSON, at most the body's {len(body)} bytes,"
            f" got {shown(header_length)}"
        )
    return body[:size], _BinaryTensors(body[size:])


def _inputs(content: Mapping[str, Any], tensors: _BinaryTensors, limit: int) -> tuple[dict[str, list[Id]], list[int]]:
    """The values of both inputs, and the shape of the candidates."""
    values: dict[str, list[Id]] = {}
    shape: list[int] = []
    for name, tensor in _by_name(content.get("inputs"), "inputs", _INPUT_FIELDS, INPUTS):
        given = _shape(tensor.get("shape"), name)
        if name == "candidate_ids":
            shape = given
            if given[-1] > limit:
                raise TooManyCandidatesError(f"candidate_ids: {given[-1]} candidates, at most {limit} are accepted")
        values[name] = _values(tensor, name, given, tensors)
    for name in INPUTS:
        if name not in values:
            raise MalformedError(f"inputs: {name} is required")
    if tensors.num_left:
        raise MalformedError(f"inputs: {tensors.num_left} bytes stand behind the JSON that are of no input")
    return values, shape


def _outputs(content: Mapping[str, Any], is_binary: bool) -> dict[str, bool]:
    asked = content.get("outputs")
    if asked in (None, []):
        asked = [{"name": name} for name in OUTPUTS]
    outputs: dict[str, bool] = {}
    for name, output in _by_name(asked, "outputs", _OUTPUT_FIELDS, OUTPUTS):
        parameters = _parameters(output, f"{name}.", frozenset({"binary_data"}))
        outputs[name] = _flag(parameters, "binary_data", prefix=f"{name}.", default=is_binary)
    return outputs


def _by_name(
    tensors: Any, field: str, fields: frozenset[str], known: Mapping[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """The tensors of ``inputs`` or ``outputs`` with their names, each of which is known and there once."""
    if type(tensors) is not list:
        raise MalformedError(f"{field}: must be a list, not {kind_of(tensors)}")
    found: dict[str, dict[str, Any]] = {}
    for index, tensor in enumerate(tensors):
        where = f"{field}[{index}]"
        if type(tensor) is not dict:
            raise MalformedError(f"{where}: must be an object, not {kind_of(tensor)}")
        name = tensor.get("name")
        if type(name) is not str or name not in known:
            raise MalformedError(f"{where}.name: must be one of {', '.join(known)}, got {shown(name)}")
        if name in found:
            raise MalformedError(f"{where}.name: {name} is there twice")
        unknown = tensor.keys() - fields
        if unknown:
            raise MalformedError(f"{where}.{min(unknown)[:80]}: unknown field; known are {', '.join(sorted(fields))}")
        found[name] = tensor
    return list(found.items())


def _shape(shape: Any, name: str) -> list[int]:
    """``[N]`` or ``[1, N]``, with N = 1 for the user."""
    is_shape = type(shape) is list and all(type(size) is int and size >= 0 for size in shape)
    if is_shape and len(shape) in (1, 2) and (len(shape) == 1 or shape[0] == 1):
        is_whole: bool = name == "candidate_ids" or shape[-1] == 1
        if is_whole:
            return list(shape)
    expected = "[1] or [1, 1]" if name == "user_id" else "[N] or [1, N]"
    raise MalformedError(f"{name}.shape: must be {expected}, got {shown(shape)}")


def _values(tensor: Mapping[str, Any], name: str, shape: list[int], tensors: _BinaryTensors) -> list[Id]:
    datatype = tensor.get("datatype")
    if datatype not in ("BYTES", "INT64"):
        raise MalformedError(f"{name}.datatype: must be BYTES or INT64, got {shown(datatype)}")
    parameters = _parameters(tensor, f"{name}.", frozenset({"binary_data_size"}))
    if "binary_data_size" not in parameters:
        return _from_json(tensor.get("data"), name, shape, str if datatype == "BYTES" else int)
    if "data" in tensor:
        raise MalformedError(f"{name}.data: cannot stand beside binary_data_size")
    raw = tensors.take(parameters["binary_data_size"], f"{name}.parameters.binary_data_size")
    return _strings(raw, name, shape) if datatype == "BYTES" else _integers(raw, name, shape)


def _from_json(data: Any, name: str, shape: list[int], kind: type[Id]) -> list[Id]:
    if type(data) is not list:
        raise MalformedError(f"{name}.data: must be a list, not {kind_of(data)}")
    if len(shape) == 2 and len(data) == 1 and type(data[0]) is list:
        data = data[0]  # nested as the shape is; flat is right too
    if len(data) != shape[-1]:
        raise MalformedError(f"{name}.data: must hold the {shape[-1]} elements of its shape, got {len(data)}")
    wrong = set(map(type, data)) - {kind}
    if not wrong and (kind is str or max(data, default=0) <= _INT64_MAX):
        return list(data)
    index = next(i for i, value in enumerate(data) if (type(value) is not kind if wrong else value > _INT64_MAX))
    expected = "a string, as the datatype is BYTES" if kind is str else "a signed integer of 64 bits, for INT64"
    raise MalformedError(f"{name}.data[{index}]: must be {expected}, got {shown(data[index])}")


def _integers(raw: bytes, name: str, shape: list[int]) -> list[Id]:
    if len(raw) != 8 * shape[-1]:
        raise MalformedError(f"{name}: {shape[-1]} elements of INT64 have {8 * shape[-1]} bytes, got {len(raw)}")
    values: list[Id] = np.frombuffer(raw, dtype="<i8").tolist()
    return values


def _strings(raw: bytes, name: str, shape: list[int]) -> list[Id]:
    """Each is its length in four bytes, and then its bytes."""
    values: list[Id] = []
    end, index = 0, 0
    try:
        for index in range(shape[-1]):
            (length,) = struct.unpack_from("<I", raw, end)
            start, end = end + 4, end + 4 + length
            if end > len(raw):
                raise MalformedError(f"{name}[{index}]: {length} bytes long, {len(raw) - start} are left of the tensor")
            values.append(raw[start:end].decode())
    except struct.error:
        raise MalformedError(f"{name}: must hold the {shape[-1]} elements of its shape, got {index}") from None
    except UnicodeDecodeError:
        raise MalformedError(f"{name}[{index}]: is not UTF-8") from None
    if end != len(raw):
        raise MalformedError(f"{name}: {len(raw) - end} bytes stand behind the last element")
    return values


def _parameters(owner: Mapping[str, Any], prefix: str, known: frozenset[str]) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise MalformedError(f"{prefix}parameters: must be an object, not {kind_of(parameters)}")
    unknown = parameters.keys() - known
    if unknown:
        raise MalformedError(f"{prefix}parameters.{min(unknown)[:80]}: unknown; known are {', '.join(sorted(known))}")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, *, prefix: str = "", default: bool = False) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise MalformedError(f"{prefix}parameters.{key}: must be true or false, got {shown(value)}")
    return value


def _budget_ms(parameters: Mapping[str, Any], max_ms: float) -> float | None:
    """The smaller of ``budget_ms`` and ``timeout``, which Triton's clients count in microseconds."""
    budget_ms, timeout_us = budget_of(parameters.get("budget_ms"), max_ms), parameters.get("timeout")
    if timeout_us is None:
        return budget_ms
    if type(timeout_us) is not int or not 0 <= timeout_us <= max_ms * 1000:
        raise MalformedError(
            f"parameters.timeout: must be a whole number of microseconds from 0 to {max_ms * 1000:.0f},"
            f" got {shown(timeout_us)}"
        )
    if timeout_us == 0:  # to Triton, none
        return budget_ms
    return min(timeout_us / 1000, budget_ms or max_ms)


def _priority(parameters: Mapping[str, Any]) -> int:
    """As Triton counts: 1 is the highest, 0 the default, which is the highest here."""
    value = parameters.get("priority", 0)
    if type(value) is not int or value < 0:
        raise MalformedError(f"parameters.priority: must be an integer of at least 0, got {shown(value)}")
    return value
