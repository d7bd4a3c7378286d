"""``GET /v1/release``: what is being served."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ranktower.pointer import VARIATION_ROLES
from service.documentation import ERRORS
from service.schemas import ReleaseResponse
from service.state import state_of

router = APIRouter()

# Not the list of files, and not the training configuration, which may name the operator's paths.
_FIELDS = frozenset(ReleaseResponse.model_fields) - {"engine", "refused", *VARIATION_ROLES}


@router.get(
    "/v1/release",
    summary="The release being served",
    response_model=None,
    responses={200: {"model": ReleaseResponse}, **{code: ERRORS[code] for code in (401, 403, 429, 503)}},
)
async def release(request: Request) -> Response:
    """Identity, shape, offline metrics and parity figures of the release, from its manifest."""
    releases = state_of(request).releases
    served = releases.current()
    answer = {
        **served.manifest.model_dump(mode="json", include=set(_FIELDS)),
        "engine": served.scorer.native.engine,
        **releases.describe(),
    }
    return Response(orjson.dumps(answer), media_type="application/json")
