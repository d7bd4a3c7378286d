"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and every page is reached."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_it_builds_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    loaded = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(https?:)?//|<link\b[^>]*rel=\"?stylesheet[^>]*//")
    assert [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = {entry for entry in _leaves(yaml.safe_load(text)["nav"]) if entry.endswith(".md")}
    there = {str(path.relative_to(DOCS)) for path in PAGES if path.parent.name != "adr"} | {"adr/index.md"}
    assert listed == there


def test_the_index_lists_every_decision_by_its_title() -> None:
    index = (DOCS / "adr/index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- (\d+)\. \[(.+)\]\((.+)\)$", index, flags=re.MULTILINE)
    titled = []
    for path in sorted((DOCS / "adr").glob("0*.md")):
        number, title = path.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ").split(". ", 1)
        titled.append((str(int(number)), title, path.name))
    assert listed == titled


def _leaves(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node
    return [leaf for child in children for leaf in _leaves(child)]
