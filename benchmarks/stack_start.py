"""How long the compose stack takes from nothing to the first score, and how large its images are.

Run: ``python benchmarks/stack_start.py``; needs docker with compose. The images are built without any cached layer, but
with the base images there and what pip has downloaded before. The stack starts on empty volumes as a project of its
own, which is removed at the end; Grafana is not waited for. The result goes to
``benchmarks/results/stack_start-<date>.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from result_file import write_result

_ROOT = Path(__file__).parents[1]
_PROJECT = "ranktower-start"
_BASE = "python:3.11-slim"
_IMAGES = ("ranktower-service", "ranktower-offline")
_TIMEOUT_S = 1800.0
_BODY = {"user_id": 1, "candidate_ids": [1000001, 1000002, 1000003]}


def main() -> None:
    """Build, start, ask, measure, remove."""
    if shutil.which("docker") is None or _fails("docker", "info"):
        sys.stdout.write("stack_start: no container engine is reachable; nothing is measured\n")
        return
    proxy, prometheus = _free_ports(2)
    os.environ |= {"RANKTOWER_PORT": str(proxy), "PROMETHEUS_PORT": str(prometheus)}
    started = time.monotonic()
    _compose("build", "--no-cache", "offline", "service")
    built = time.monotonic()
    try:
        _compose("up", "--detach", "proxy", "prometheus")
        _wait_for_a_score(f"http://127.0.0.1:{proxy}/v1/score")
        scored = time.monotonic()
        steps = re.findall(r"\[(\w+)\] ([\d.]+) s\b", _compose("logs", "--no-log-prefix", "offline"))
    finally:
        _compose("down", "--volumes", "--timeout", "1")
    figures = {
        "build_s": round(built - started, 1),
        "up_to_first_score_s": round(scored - built, 1),
        "offline_steps_s": {name: float(seconds) for name, seconds in steps},
        "base_image": {"name": _BASE, **_image(_BASE), "pulled": bool(_inspect(_BASE)["RepoDigests"])},
        "images": {name: _image(name, above=_BASE) for name in _IMAGES},
        "load_average": list(os.getloadavg()),
    }
    write_result("stack_start", figures)


def _image(name: str, *, above: str | None = None) -> dict[str, float]:
    """Its size in MB, and that of its layers above another image."""
    size = _inspect(name)["Size"]
    told = {"size_mb": round(size / 1e6)}
    return told if above is None else told | {"above_base_mb": round((size - _inspect(above)["Size"]) / 1e6)}


def _inspect(image: str) -> dict[str, Any]:
    (known,) = json.loads(_run("docker", "image", "inspect", image))
    return dict(known)


def _wait_for_a_score(url: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if httpx.post(url, json=_BODY).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"{url}: no score within {_TIMEOUT_S:.0f} s")


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def _compose(*arguments: str) -> str:
    return _run("docker", "compose", "--project-name", _PROJECT, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
