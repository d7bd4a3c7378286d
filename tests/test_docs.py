"""The documents tell the truth: their links lead somewhere, their code runs, their figures are the result files'."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def test_the_readmes_own_data_can_be_prepared(tmp_path: Path) -> None:
    """Its Python writes the tables, its YAML is the specification, its first command prepares them."""
    readme = ROOT / "README.md"
    (python,), (yaml,) = blocks(readme, "python"), blocks(readme, "yaml")
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True)
    (tmp_path / "features.yaml").write_text(yaml)
    shell = next(block for block in blocks(readme, "sh") if "ranktower prepare" in block)
    prepare = next(line for line in shell.splitlines() if line.startswith("ranktower prepare"))
    command = [sys.executable, "-m", "ranktower.cli", *prepare.split()[1:]]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "2 users (2 active), 3 items, 6 interactions" in told


def test_the_commands_in_the_readme_exist() -> None:
    shell = "\n".join(blocks(ROOT / "README.md", "sh"))
    for line in (line.split("#")[0].split() for line in shell.splitlines() if line.startswith("ranktower ")):
        helped = subprocess.run(
            [sys.executable, "-m", "ranktower.cli", line[1], "--help"], check=True, capture_output=True, text=True
        ).stdout
        for option in (word for word in line if word.startswith("--")):
            assert option in helped, f"ranktower {line[1]} has no {option}"


def test_the_figures_are_the_result_files() -> None:
    check = subprocess.run([sys.executable, "benchmarks/figures.py", "--check"], cwd=ROOT, check=False)
    assert check.returncode == 0, "run python benchmarks/figures.py"


def test_the_architecture_is_a_picture_without_scripts() -> None:
    picture = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg ")
    assert "<title" in picture
    assert "<script" not in picture
