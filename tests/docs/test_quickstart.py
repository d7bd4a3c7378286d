"""The quick start, typed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from ranktower.registry import Registry

PORT = 8000


def test_the_chain(films: Path) -> None:
    pointer = Registry(films / "registry").current("films")
    assert pointer is not None
    metrics = json.loads((films / "run/metrics.json").read_text())
    assert "full_corpus" in json.dumps(metrics)


def test_the_service(films: Path, page: Callable[..., Any], type_in: Callable[..., str], free_port: int) -> None:
    serve, *asked = (
        command.replace(str(PORT), str(free_port))
        for command in page("quickstart.md").commands(test="test_the_service")
    )
    server = subprocess.Popen([sys.executable, "-m", "ranktower.cli", *shlex.split(serve)[1:]], cwd=films)
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(free_port):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        score, rank, explain = (type_in(films, command) for command in asked)
    finally:
        server.terminate()
        server.wait(30)
    assert server.returncode == 0
    assert all(isinstance(value, float) for value in json.loads(score)["scores"])
    assert len(json.loads(rank)["items"]) == 5
    assert "candidate 1000001: score" in explain


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
