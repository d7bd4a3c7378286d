"""The Open Inference Protocol, version 2: the scores of ``/v1/score``, for clients that speak it.

A version of the model is a release."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ranktower import __version__
from service.answering import Answering, Scored
from service.context import context_of
from service.documentation import ERRORS, UNKNOWN_MODEL, path_parameters, request_body
from service.errors import NotFoundError
from service.incoming import demand_of, read_query
from service.inference_schemas import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.loaded import LoadedRelease
from service.open_inference import HEADER_LENGTH, INPUTS, OUTPUTS, InferQuery, infer_response, parse_infer
from service.outgoing import count_answer
from service.parsing import Id, shown
from service.routes.probes import readyz
from service.state import state_of

router = APIRouter()

_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
_EXAMPLE = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["12"]},
        {"name": "candidate_ids", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]},
    ],
    "parameters": {"budget_ms": 20},
}
_OF_MODEL: dict[int | str, dict[str, Any]] = {**UNKNOWN_MODEL, **{code: ERRORS[code] for code in (401, 403, 503)}}


@router.get("/v2", summary="The server", response_model=None, responses={200: {"model": ServerMetadata}})
async def server_metadata() -> Response:
    """Name, version, and the protocol's extensions that are supported."""
    return _json({"name": "ranktower", "version": __version__, "extensions": ["binary_tensor_data", "schedule_policy"]})


@router.get("/v2/health/live", summary="As /livez", response_model=None, responses={200: {"model": ServerLive}})
async def server_live() -> Response:
    """Touches nothing."""
    return _json({"live": True})


@router.get(
    "/v2/health/ready",
    summary="As /readyz",
    response_model=None,
    responses={200: {"model": ServerReady}, 503: ERRORS[503]},
)
async def server_ready(request: Request) -> Response:
    """200 when `/readyz` says so."""
    await readyz(request)
    return _json({"ready": True})


@router.get(
    f"{_VERSION}/ready",
    name="model_version_ready",
    summary="Is this release of the model being served",
    response_model=None,
    responses={200: {"model": ModelReady}, **_OF_MODEL},
    openapi_extra=path_parameters("model", "version"),
)
@router.get(
    f"{_MODEL}/ready",
    summary="Is the model being served",
    response_model=None,
    responses={200: {"model": ModelReady}, **_OF_MODEL},
    openapi_extra=path_parameters("model"),
)
async def model_ready(request: Request) -> Response:
    """200 as `/v2/health/ready`, and only where the version, if one is asked for, is being served."""
    model = _model(request)
    await readyz(request)
    _of_version(request)
    return _json({"name": model, "ready": True})


@router.get(
    _VERSION,
    name="model_version_metadata",
    summary="Inputs and outputs of this release of the model",
    response_model=None,
    responses={200: {"model": ModelMetadata}, **_OF_MODEL},
    openapi_extra=path_parameters("model", "version"),
)
@router.get(
    _MODEL,
    summary="Inputs and outputs of the model",
    response_model=None,
    responses={200: {"model": ModelMetadata}, **_OF_MODEL},
    openapi_extra=path_parameters("model"),
)
async def model_metadata(request: Request) -> Response:
    """The releases being served are the versions. The inputs may be INT64 too, where the ids are integers."""
    model = _model(request)
    _of_version(request)
    inputs, outputs = (
        [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in tensors.items()]
        for tensors in (INPUTS, OUTPUTS)
    )
    versions = list(state_of(request).releases.served())
    return _json({"name": model, "versions": versions, "platform": "ranktower", "inputs": inputs, "outputs": outputs})


@router.post(
    f"{_VERSION}/infer",
    name="infer_version",
    summary="Score candidates for a user by this release",
    response_model=None,
    responses={200: {"model": InferResponse}, **ERRORS, **UNKNOWN_MODEL},
    openapi_extra=request_body(InferRequest, _EXAMPLE, "model", "version"),
)
@router.post(
    f"{_MODEL}/infer",
    summary="Score candidates for a user by the Open Inference Protocol",
    response_model=None,
    responses={200: {"model": InferResponse}, **ERRORS, **UNKNOWN_MODEL},
    openapi_extra=request_body(InferRequest, _EXAMPLE, "model"),
)
async def infer(request: Request) -> Response:
    """The scores of `/v1/score`, as a tensor. Without a version, the user's release scores: current or canary."""
    state, context = state_of(request), context_of(request)
    model = _model(request)
    parse = partial(parse_infer, header_length=context.header(HEADER_LENGTH))
    query, deadline = await read_query(request, parse)
    with _of_version(request, query.user_id).hold() as release:
        demand = demand_of(request, query, deadline, release, "infer")
        with state.turns.admit(demand) as ticket:
            scored = await Answering(query, release, ticket, context, state.metrics).score(query.candidate_ids)
            state.shadow.offer(release, query, scored)
            return _answer(request, query, release, scored, model)


def _answer(request: Request, query: InferQuery, release: LoadedRelease, scored: Scored, model: str) -> Response:
    began, context = time.perf_counter(), context_of(request)
    degraded = {f"degraded_{key}": value for key, value in (scored.degraded or {}).items()}
    parameters = {"request_id": context.request_id, "user": scored.user, **degraded}
    parameters["took_ms"] = round(context.elapsed_ms(), 3)
    content = {"model_name": model, "model_version": release.release, "parameters": parameters}
    response = infer_response(query, scored, content)
    count_answer(request, release, began, work="answer", size=len(scored.scores))
    return response


def _model(request: Request) -> str:
    """The model that the path names, which must be the one served; without parameters the path is that model's."""
    served = state_of(request).settings.release.model
    asked = request.path_params.get("model", served)
    if asked != served:
        raise NotFoundError(f"model: {shown(asked)} is not served here, only {shown(served)}")
    return served


def _of_version(request: Request, user_id: Id | None = None) -> LoadedRelease:
    """The release that the path names, or else the user's, or else the current one."""
    releases, version = state_of(request).releases, request.path_params.get("version")
    if version is None:
        return releases.current() if user_id is None else releases.of_user(user_id)
    served = releases.served()
    if version not in served:
        raise NotFoundError(f"version: {shown(version)} is not served, only {', '.join(served)}")
    return served[version]


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
