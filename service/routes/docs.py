"""``GET /docs``: Swagger UI over ``/openapi.json``, from installed files, so that it works in a closed network too."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

# fastapi-offline carries the files of npm's swagger-ui-dist; nothing of its code is used.
_FOLDER = Path(str(files("fastapi_offline"))) / "static"
_VERSION = version("fastapi-offline")
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true})'
# Relative addresses: they hold behind a proxy that puts the service under a prefix. The version in them is what lets
# a browser keep the files for ever.
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>RankTower</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css?{_VERSION}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js?{_VERSION}"></script>
<script>{_START}</script>
</body>
</html>
"""
_START_SHA256 = base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()
_PAGE_HEADERS = {
    # Swagger UI sets styles inline and draws its icons from data: addresses; it runs no other script and asks no one
    # else.
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:;"
    f" script-src 'self' 'sha256-{_START_SHA256}'; style-src 'self' 'unsafe-inline';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_FILE_HEADERS = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return Response(_PAGE, headers=_PAGE_HEADERS, media_type="text/html")


@router.get("/docs/swagger-ui.css")
async def docs_style() -> FileResponse:
    """Swagger UI's style sheet."""
    return FileResponse(_FOLDER / "swagger-ui.css", headers=_FILE_HEADERS, media_type="text/css")


@router.get("/docs/swagger-ui-bundle.js")
async def docs_script() -> FileResponse:
    """Swagger UI itself."""
    return FileResponse(_FOLDER / "swagger-ui-bundle.js", headers=_FILE_HEADERS, media_type="text/javascript")
