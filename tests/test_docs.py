"""The documents tell the truth: their links lead somewhere, their code runs, their figures are the result files'."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
RANKTOWER = [sys.executable, "-m", "ranktower.cli"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


def test_the_readmes_own_data_is_served_by_its_own_commands(tmp_path: Path) -> None:
    """Its Python writes the tables, its YAML is the specification, and its commands are typed one after the other."""
    readme = ROOT / "README.md"
    (python,), (yaml,) = blocks(readme, "python"), blocks(readme, "yaml")
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True)
    (tmp_path / "features.yaml").write_text(yaml)
    shell = next(block for block in blocks(readme, "sh") if "ranktower prepare" in block)
    typed = [line.split("#")[0].split()[1:] for line in shell.splitlines()]
    assert [command[0] for command in typed[-2:]] == ["promote", "serve"]
    for command in typed[:-1]:
        done = subprocess.run([*RANKTOWER, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([*RANKTOWER, *typed[-1], "--port", str(port)], cwd=tmp_path)
    try:
        answer = score(f"http://127.0.0.1:{port}", server, {"user_id": 1, "candidate_ids": ["a", "b", "nothing"]})
    finally:
        server.terminate()
        server.wait(30)
    assert answer["user"] == "PRESENT"
    assert [score is None for score in answer["scores"]] == [False, False, True]


def score(address: str, server: subprocess.Popen[bytes], body: dict[str, Any]) -> dict[str, Any]:
    """The answer of ``/v1/score`` once the service is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                answer: dict[str, Any] = httpx.post(f"{address}/v1/score", json=body).json()
                return answer
        time.sleep(0.1)
    raise AssertionError(f"the service did not become ready (exit status {server.poll()})")


def test_the_figures_are_the_result_files() -> None:
    check = subprocess.run([sys.executable, "benchmarks/figures.py", "--check"], cwd=ROOT, check=False)
    assert check.returncode == 0, "run python benchmarks/figures.py"


def test_the_architecture_is_a_picture_without_scripts() -> None:
    picture = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg ")
    assert "<title" in picture
    assert "<script" not in picture
