"""``GET /console``: the page for people, from the files of ``service/console``, and the users that it proposes.

``docs/console.md`` says what the page does, ``docs/adr/0033`` how it is made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import orjson
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.state import state_of

router = APIRouter(include_in_schema=False)

_NUM_EXAMPLES = 50
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE = "index.html"
_HEADERS = {
    # Nothing inline, nothing from elsewhere. Trusted types: no script of the page can turn a string into markup.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Kept, and asked for again each time: the page and its modules must be of one version.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    found = {}
    for entry in files("service").joinpath("console").iterdir():
        content = entry.read_bytes()
        media_type = _MEDIA_TYPES[f".{entry.name.rpartition('.')[2]}"]
        found[entry.name] = _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


@router.get("/console/")
async def console_folder() -> Response:
    """To the page, whose addresses would be wrong here; the way there is relative as well."""
    return Response(status_code=307, headers={"location": "../console"})


@router.api_route("/console", methods=["GET", "HEAD"])
async def console(request: Request) -> Response:
    """The page. Its addresses are relative, so it works behind a proxy that puts the service under a prefix."""
    return _serve(request, _PAGE)


@router.api_route("/console/{name}", methods=["GET", "HEAD"])
async def console_file(request: Request, name: str) -> Response:
    """A style sheet, a script or the icon; 404 for whatever is not one of them."""
    if name == _PAGE or name not in _files():
        raise HTTPException(404)
    return _serve(request, name)


@router.get("/v1/console/users")
async def example_users(request: Request) -> Response:
    """Ids of some stored users, others each time; none where it reads no table. Under /v1, because ids are data."""
    release = state_of(request).releases.current()
    content = {"release": release.release, "users": release.store.example_users(_NUM_EXAMPLES)}
    return Response(orjson.dumps(content), headers={"cache-control": "no-store"}, media_type="application/json")


def _serve(request: Request, name: str) -> Response:
    file = _files()[name]
    headers = {**_HEADERS, "etag": file.etag}
    # A proxy that compresses marks the tag as weak.
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
