"""``docs/security.md`` is typed as it stands: its commands, and its site in a real nginx with TLS."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.http as triton

from service.api_keys import read_keys
from service.client import RankTowerClient
from service.rate_limit import Rate

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")
BODY = {"user_id": "user-1", "candidate_ids": [1]}
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def sh(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=folder,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def status(url: str, *, client: Any = httpx, **options: Any) -> int | None:
    """None while nothing listens."""
    try:
        code: int = client.get(url, **options).status_code
        return code
    except httpx.ConnectError:
        return None


def test_the_page_is_typed_from_its_beginning(release: Any, tmp_path: Path, free_port: int) -> None:
    create, serve, ask, rotate, *_ = blocks("sh")
    listing = sh(create, tmp_path)
    key = (tmp_path / "mobile.key").read_text().strip()
    assert (tmp_path / "mobile.key").stat().st_mode & 0o077 == 0
    assert re.search(r"^mobile +\w{8} +500/s, burst 1000 +never$", listing, flags=re.MULTILINE)
    (tmp_path / "registry").symlink_to(release.folder.parent.parent)
    typed = serve.replace("--model ranktower", "--model demo").replace(
        "--host 0.0.0.0", f"--host 0.0.0.0 --port {free_port}"
    )
    command = typed.replace("\nranktower", "\nexec ranktower")
    server = subprocess.Popen(["sh", "-euc", command], cwd=tmp_path, env={**os.environ, "PATH": PATH})
    url = f"http://127.0.0.1:{free_port}"

    def answer(key: str) -> int | None:
        return status(f"{url}/v1/release", headers={"x-api-key": key})

    try:
        wait_until(lambda: status(f"{url}/readyz") == 200, "ready")
        assert release.release in sh(ask.replace("localhost:8000", f"127.0.0.1:{free_port}"), tmp_path)
        assert 'ranktower_auth_requests_total{key="mobile"} 1.0' in httpx.get(f"{url}/metrics").text
        sh(rotate, tmp_path)
        new = (tmp_path / "mobile-2.key").read_text().strip()
        wait_until(lambda: answer(new) == 200, "rotated")
        wait_until(lambda: answer(key) == 403, "revoked")
    finally:
        server.terminate()
        assert server.wait(30) == 0


def test_behind_the_proxy_keys_are_required(release: Any, tmp_path: Path) -> None:
    (command,) = (block for block in blocks("sh") if "AUTH__REQUIRED" in block)
    (tmp_path / "registry").symlink_to(release.folder.parent.parent)
    (tmp_path / "keys.yaml").write_text("keys: []")
    refused = "auth: http.host='127.0.0.1' asks for API keys, but keys.yaml holds no API key"
    with pytest.raises(AssertionError, match=refused):
        sh(command, tmp_path)


def test_the_file_of_the_page_is_read(tmp_path: Path) -> None:
    (content,) = blocks("yaml")
    (tmp_path / "keys.yaml").write_text(content, encoding="utf-8")
    (entry,) = read_keys(tmp_path / "keys.yaml")
    assert (entry.name, entry.id, entry.rate) == ("mobile", "pj2tvxkx", Rate(2_000_000, 1000))


@pytest.mark.parametrize(("host", "more"), [("0.0.0.0", {}), ("127.0.0.1", {"RANKTOWER_AUTH__REQUIRED": "true"})])
def test_other_machines_are_not_served_without_a_key(tmp_path: Path, host: str, more: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ranktower.cli", "serve", "--registry", ".", "--model", "m", "--host", host]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert f"http.host='{host}' asks for API keys, but no API key is set" in done.stderr


@pytest.fixture
def site(
    release: Any, start_server: Callable[..., Any], tmp_path: Path, free_port: int
) -> Iterator[tuple[str, Any, Path]]:
    """The page's site in nginx before a server with a key: its address, the server, the folder of the certificate."""
    nginx = shutil.which("nginx", path=f"{PATH}:/usr/sbin")
    assert nginx is not None, "nginx is not installed; 'make test' installs it"
    sh(next(block for block in blocks("sh") if block.startswith("openssl")), tmp_path)
    server = start_server(release.folder.parent.parent, AUTH__API_KEY="correct-horse-battery")
    server.wait_ready()
    (config,) = blocks("nginx")
    for typed, here in (
        ("127.0.0.1:8000", server.url.removeprefix("http://")),
        ("listen 443 ssl", f"listen 127.0.0.1:{free_port} ssl"),
        ("/etc/nginx/tls/", f"{tmp_path}/"),
    ):
        assert config.count(typed) >= 1, typed
        config = config.replace(typed, here)
    (tmp_path / "ranktower.conf").write_text(config)
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; events {{}}"
        f" http {{ access_log {tmp_path}/access.log; {folders} include {tmp_path}/ranktower.conf; }}"
    )
    proxy = subprocess.Popen([nginx, "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    try:
        yield f"https://127.0.0.1:{free_port}", server, tmp_path
    finally:
        proxy.terminate()
        assert proxy.wait(20) == 0


def test_the_site_of_the_page_serves_through_tls(release: Any, site: tuple[str, Any, Path]) -> None:
    url, server, folder = site
    trusted = ssl.create_default_context(cafile=str(folder / "ranktower.crt"))
    headers = {"host": "scores.example.com", "x-request-id": "r-1"}
    key = {"x-api-key": "correct-horse-battery"}
    name = {"sni_hostname": "scores.example.com"}

    def ask(method: str, path: str, **more: Any) -> httpx.Response:
        return client.request(method, path, extensions=name, **more)

    with httpx.Client(base_url=url, verify=trusted, headers=headers) as client:
        wait_until(lambda: status("/", client=client, extensions=name) == 404, "nginx listens")
        answer = ask("POST", "/v1/score", json=BODY, headers=key)
        assert answer.status_code == 200
        assert answer.json()["scores"] == pytest.approx(release.scores("user-1", [1]).tolist(), abs=4e-5)
        assert (answer.headers["x-request-id"], answer.headers["server"]) == ("r-1", "nginx")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        refused = ask("POST", "/v1/score", json=BODY)
        assert (refused.status_code, refused.json()["error_type"]) == (401, "unauthorized")
        assert ask("GET", "/v2/health/ready").status_code == server.client.get("/v2/health/ready").status_code
        assert ask("POST", "/v1/score", content=b" " * (5 << 20), headers=key).status_code == 413
        for inside in ("/metrics", "/docs", "/console", "/livez", "/v1/../metrics"):
            assert ask("GET", inside).status_code == 404
    port = int(url.rsplit(":", 1)[1])
    assert status(f"http://127.0.0.1:{port}/v1/score") == 400  # plain HTTP sent to the TLS port
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url)
    trusted.check_hostname = False  # no name leads here
    with RankTowerClient(url, api_key=key["x-api-key"], ssl_context=trusted) as ours:
        assert ours.ready() is True
        assert list(ours.score("user-1", [1]).scores) == answer.json()["scores"]
    certain = {"ca_certs": str(folder / "ranktower.crt"), "server_hostname": name["sni_hostname"]}
    with triton.InferenceServerClient(url.removeprefix("https://"), ssl=True, ssl_options=certain) as theirs:
        assert theirs.get_server_metadata()["name"] == "ranktower"
    assert "correct-horse-battery" not in (folder / "access.log").read_text() + server.log.read_text()
