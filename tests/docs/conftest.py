"""Commands out of the pages themselves: what a reader would type is what is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Page:
    """One page of the documentation."""

    path: Path

    def blocks(self, language: str, *, test: str | None = None) -> list[str]:
        """The fenced blocks in a language, in their order; of ``test``, those that say they are run by it."""
        text = self.path.read_text(encoding="utf-8")
        found = re.findall(rf"(?:<!-- run by: (\S+) -->\n)?^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        return [block for marker, block in found if test is None or marker.endswith(f"::{test}")]

    def commands(self, *, test: str) -> list[str]:
        """The shell commands of those blocks, one a line, without their comments."""
        lines = "".join(self.blocks("sh", test=test)).replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    """``page("quickstart.md")``: a page below docs/."""
    return lambda name: Page(DOCS / name)


@pytest.fixture(scope="session")
def type_in() -> Callable[..., str]:
    """``type_in(folder, command)``: run a command as it stands, in a folder; returns what it printed."""

    def run(folder: Path, command: str) -> str:
        environment = {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        options: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, shell=True, check=False, **options)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def films(page: Callable[[str], Page], type_in: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the quick start's chain has been typed, up to the promoted release of ``films``."""
    folder = tmp_path_factory.mktemp("films")
    quickstart = page("quickstart.md")
    (settings,) = quickstart.blocks("yaml")
    (folder / "train.yaml").write_text(settings)
    for command in quickstart.commands(test="test_the_chain"):
        type_in(folder, command)
    return folder
