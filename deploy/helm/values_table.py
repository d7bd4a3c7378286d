"""``python deploy/helm/values_table.py`` writes the chart's values and their comments into ``docs/kubernetes.md``.

A value is in the table with its default, and with the comment above it if that begins with ``# --``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
VALUES = Path(__file__).with_name("ranktower") / "values.yaml"
PAGE = ROOT / "docs" / "kubernetes.md"
BEGIN, END = "<!-- values: written by deploy/helm/values_table.py -->\n", "<!-- end of values -->"


def table() -> str:
    """The values as a Markdown table."""
    text = VALUES.read_text(encoding="utf-8")
    comments = dict(_comments(text))
    rows = [f"| `{key}` | {_shown(value)} | {comments.get(key, '')} |" for key, value in _leaves(yaml.safe_load(text))]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows, ""])


def page() -> str:
    """The page with the table of today."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Dotted key and comment of every value that has one."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if note := re.fullmatch(r"\s*# (?:(-- ))?(.*)", line):
            comment = [note[2]] if note[1] else [*comment, note[2]] if comment else []
        elif key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                yield ".".join(path), " ".join(comment)
            comment = []
        else:
            comment = []


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """What is set as one: Kubernetes' own objects are, the chart's sections are not."""
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and value and name not in {"config", "resources", "labels"}:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _shown(value: Any) -> str:
    return "" if value == "" else f"`{json.dumps(value) if not isinstance(value, str) else value}`"


if __name__ == "__main__":
    written = PAGE.with_suffix(".tmp")
    written.write_text(page(), encoding="utf-8")
    os.replace(written, PAGE)
