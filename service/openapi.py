"""``python -m service.openapi > docs/openapi.json`` writes the checked-in OpenAPI document."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from service.app import create_app
from service.settings import ReleaseSettings, Settings


def openapi_text() -> str:
    """The document of the application, the same whatever it is configured to serve."""
    # Neither is read: the document describes routes, not a release.
    settings = Settings(release=ReleaseSettings(registry=Path("registry"), model="model"))
    return json.dumps(create_app(settings).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
