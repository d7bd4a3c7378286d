"""``GET /docs`` on a running server, read by a client and drawn by a real browser that reaches nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = json.loads((Path(__file__).parents[3] / "docs/openapi.json").read_text(encoding="utf-8"))["paths"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def addresses(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]*)"', page)


def test_the_page_names_no_other_server(server: Any) -> None:
    answer = server.client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert '"openapi.json"' in answer.text
    assert "//" not in answer.text
    assert [address.split("?")[0] for address in addresses(answer.text)] == [
        "data:,",
        "docs/swagger-ui.css",
        "docs/swagger-ui-bundle.js",
    ]


def test_the_page_may_load_and_run_only_what_the_service_serves(server: Any) -> None:
    policy = server.client.get("/docs").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert "http" not in policy


@pytest.mark.parametrize(
    ("name", "media_type", "least_bytes"),
    [("swagger-ui.css", "text/css", 100_000), ("swagger-ui-bundle.js", "text/javascript", 1_000_000)],
)
def test_its_files_may_be_kept_for_ever_under_an_address_with_their_version(
    server: Any, name: str, media_type: str, least_bytes: int
) -> None:
    address = next(one for one in addresses(server.client.get("/docs").text) if name in one)
    assert re.fullmatch(rf"docs/{re.escape(name)}\?[0-9.]+", address)
    answer = server.client.get("/" + address)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert len(answer.content) > least_bytes


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/redoc.standalone.js",
        "/docs/../pyproject.toml",
        "/docs/%2e%2e/consts.py",
        "/docs/..%2fconsts.py",
        "/docs/swagger-ui.css/../../consts.py",
        "/docs//etc/passwd",
        "/docs/swagger-ui.css%00",
    ],
)
def test_no_other_file_is_served(server: Any, path: str) -> None:
    # The raw target: a client would take the dots out before it asks.
    request = server.client.build_request("GET", server.url)
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = server.client.send(request)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_every_operation(server: Any, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    # Whatever is not the service resolves to nothing.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={tmp_path}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=8000", "--dump-dom", f"{server.url}/docs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shown = re.findall(r'data-path="([^"]+)"', done.stdout)
    assert sorted(set(shown)) == sorted(OPERATIONS)
    assert "Content Security Policy" not in done.stderr
    assert "Failed to load" not in done.stderr
