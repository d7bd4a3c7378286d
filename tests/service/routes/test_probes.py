"""Probes and ``GET /v1/release`` on a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_livez(server: Any) -> None:
    answer = server.client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_probes_answer_head_as_load_balancers_ask(server: Any) -> None:
    for path in ("/livez", "/readyz"):
        answer = server.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_readyz_names_the_release(server: Any, release: Any) -> None:
    answer = server.client.get("/readyz")
    assert answer.status_code == 200
    nothing = {"refused": None, "canary": None, "shadow": None}
    assert answer.json() == {"status": "ready", "release": release.release, **nothing}


def test_readyz_says_why_not(start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(tmp_path)
    server.wait_not_ready("no_release")
    answer = server.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"] == "not ready: no release has been promoted"
    assert server.stop() == 0


def test_the_release_is_its_manifest_without_files_and_configuration(server: Any, release: Any) -> None:
    manifest = json.loads((release.folder / "manifest.json").read_text())
    body = server.client.get("/v1/release").json()
    assert body.pop("engine") in {"native", "onnx"}
    assert [body.pop(key) for key in ("refused", "canary", "shadow")] == [None, None, None]
    assert body == {key: manifest[key] for key in body}
    assert manifest.keys() - body.keys() == {"files", "config", "tag", "fallback_user"}
    assert body["release"] == release.release
    assert body["shape"] == {"num_user_heads": 4, "num_item_heads": 4, "width": 32, "attention_width": 32}


def test_the_probe_is_quick_while_large_requests_run(server: Any) -> None:
    start = time.monotonic()
    for _ in range(20):
        server.client.get("/livez")
    assert time.monotonic() - start < 5
