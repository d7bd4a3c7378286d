"""The JSON of the Open Inference Protocol, for the OpenAPI document. Requests are read by ``open_inference``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Shape = Annotated[list[int], Field(min_length=1, max_length=2, description="[N] or [1, N]; N is 1 for user_id.")]
Size = Annotated[int | None, Field(ge=0, description="Bytes of the tensor behind the JSON, where it is binary.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputParameters(_Request):
    """Of an input."""

    binary_data_size: Size = None


class InferInput(_Request):
    """One of the two inputs."""

    name: Literal["user_id", "candidate_ids"]
    shape: Shape
    datatype: Literal["BYTES", "INT64"]
    data: list[Any] | None = Field(default=None, description="The ids, strings for BYTES; absent where it is binary.")
    parameters: InputParameters | None = None


class OutputParameters(_Request):
    """Of a requested output."""

    binary_data: bool = Field(default=False, description="Whether it is to stand behind the JSON.")


class RequestedOutput(_Request):
    """An output to be in the answer."""

    name: Literal["scores", "present"]
    parameters: OutputParameters | None = None


class RequestParameters(_Request):
    """Of a request."""

    budget_ms: float | None = Field(default=None, gt=0, le=60_000, description="As in /v1/score.")
    timeout: int | None = Field(
        default=None, gt=0, le=60_000_000, description="The same in microseconds; the smaller holds."
    )
    priority: int = Field(default=0, ge=0, description="Above 1: after all other requests, the first to be refused.")
    binary_data_output: bool = Field(default=False, description="Default of the outputs' binary_data.")


class InferRequest(_Request):
    """Body of POST /v2/models/{model}/infer."""

    inputs: list[InferInput] = Field(min_length=2, max_length=2)
    outputs: list[RequestedOutput] | None = Field(default=None, description="Both, where absent or empty.")
    parameters: RequestParameters | None = None
    id: str | None = Field(default=None, description="Repeated in the answer.")


class AnswerParameters(BaseModel):
    """What of the answer is in no tensor."""

    request_id: str
    user: Literal["PRESENT", "COMPUTED", "FALLBACK"]
    took_ms: float
    degraded_level: str | None = Field(default=None, description="This and the next four only where it is degraded.")
    degraded_reason: str | None = None
    degraded_share: float | None = None
    degraded_expected_ndcg: float | None = None
    degraded_expected_recall: float | None = None


class InferOutput(BaseModel):
    """One output."""

    name: Literal["scores", "present"]
    shape: Shape
    datatype: Literal["FP32", "BOOL"]
    data: list[float] | list[bool] | None = Field(
        default=None,
        description="In the order of candidate_ids. A score is -3.4028235e38, the least, where present is false.",
    )
    parameters: InputParameters | None = None


class InferResponse(BaseModel):
    """Answer of POST /v2/models/{model}/infer."""

    model_name: str
    model_version: str = Field(description="The release that every score comes from.")
    id: str | None = Field(default=None, description="Where the request has one.")
    parameters: AnswerParameters
    outputs: list[InferOutput]


class MetadataTensor(BaseModel):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for any size.")


class ModelMetadata(BaseModel):
    """Answer of GET /v2/models/{model}."""

    name: str
    versions: list[str] = Field(description="The releases being served: the current one, and the canary.")
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


class ModelReady(BaseModel):
    """Answer of GET /v2/models/{model}/ready."""

    name: str
    ready: Literal[True]


class ServerMetadata(BaseModel):
    """Answer of GET /v2."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Answer of GET /v2/health/live."""

    live: Literal[True]


class ServerReady(BaseModel):
    """Answer of GET /v2/health/ready."""

    ready: Literal[True]
