"""``python deploy/helm/config_schema.py`` writes the service's settings into the schema of the chart's values.

So Helm refuses under ``config`` what the service would refuse at its start, and what other values decide.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from service.settings import Settings

SCHEMA = Path(__file__).with_name("ranktower") / "values.schema.json"
DECIDED = {
    "release": ("registry", "model"),
    "http": ("host", "port", "drain_delay_s", "drain_timeout_s"),
    "store": ("redis_url", "redis_cluster", "redis_password_file"),
}
"""Keys that other values set; so is all of ``auth``."""
_NO_RULES = ("title", "description", "default", "format")


def config_schema() -> dict[str, Any]:
    """What ``config`` may hold."""
    settings = Settings.model_json_schema()
    sections = {
        name: _section(name, settings["$defs"][part["$ref"].rpartition("/")[2]])
        for name, part in settings["properties"].items()
        if name != "auth"
    }
    return {"type": "object", "additionalProperties": False, "properties": sections}


def _section(name: str, section: dict[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key, rules in section["properties"].items():
        is_decided = key in DECIDED.get(name, ())
        keys[key] = False if is_decided else {word: value for word, value in rules.items() if word not in _NO_RULES}
    return {"type": "object", "additionalProperties": False, "properties": keys}


def text() -> str:
    """The file with the settings of today."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["config"] = config_schema()
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    written = SCHEMA.with_suffix(".tmp")
    written.write_text(text(), encoding="utf-8")
    os.replace(written, SCHEMA)
