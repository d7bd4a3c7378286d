"""Where a benchmark's figures go: ``results/<name>-<date>.json``, with the machine and the command beside them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(*libraries: str) -> dict[str, Any]:
    """What the figures were measured on, and with which versions of ``libraries``."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return {
        "cpu": next((line.split(": ")[1] for line in lines if "model name" in line), platform.processor()),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def write_result(name: str, figures: dict[str, Any], *libraries: str) -> Path:
    """Write one result and show it; today's earlier one of the same name is replaced."""
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    command = without_folders(" ".join(["python", *sys.argv]))
    content = {"date": today, "command": command, "machine": machine(*libraries), **figures}
    path = RESULTS / f"{name}-{today}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{json.dumps(figures, indent=2)}\n{path}\n")
    return path


def without_folders(command: str) -> str:
    """``command`` without the folders of absolute paths, which say nothing to a reader on another machine."""
    return re.sub(r"(?<![^\s=])/(?:[^\s/]+/)*", "", command)


def latest_result(name: str) -> dict[str, Any]:
    """The newest result of a benchmark."""
    found = find_result(name)
    if found is None:
        raise SystemExit(f"{RESULTS}: no result of {name} yet; run python benchmarks/{name}.py")
    return found


def find_result(name: str) -> dict[str, Any] | None:
    """The newest result of a benchmark, None where there is none; names sort by their dates."""
    paths = sorted(RESULTS.glob(f"{name}-????-??-??.json"))
    if not paths:
        return None
    content: dict[str, Any] = json.loads(paths[-1].read_text(encoding="utf-8"))
    return content
