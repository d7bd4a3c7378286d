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
import time
from typing import Any

import httpx
from redis_run import free_port
from result_file import write_result
from service_run import say
from stack_compose import ComposeStack, docker, engine_is_reachable

_PROJECT = "ranktower-start"
_BASE = "python:3.11-slim"
_IMAGES = ("ranktower-service", "ranktower-offline")
_TIMEOUT_S = 1800.0
_BODY = {"user_id": 1, "candidate_ids": [1000001, 1000002, 1000003]}


def main() -> None:
    """Build, start, ask, measure, remove."""
    if not engine_is_reachable():  # `make bench` goes on without
        say("stack_start: no container engine is reachable, nothing is measured")
        return
    proxy = free_port()
    os.environ |= {"RANKTOWER_PORT": str(proxy), "PROMETHEUS_PORT": str(free_port())}
    stack = ComposeStack(_PROJECT, f"http://127.0.0.1:{proxy}")
    started = time.monotonic()
    stack.compose("build", "--no-cache", "offline", "service")
    built = time.monotonic()
    try:
        stack.up()
        _wait_for_a_score(f"{stack.address}/v1/score")
        scored = time.monotonic()
        steps = re.findall(r"\[(\w+)\] ([\d.]+) s\b", stack.compose("logs", "--no-log-prefix", "offline"))
    finally:
        stack.compose("down", "--volumes", "--timeout", "1")
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
    (known,) = json.loads(docker("image", "inspect", image))
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


if __name__ == "__main__":
    main()
