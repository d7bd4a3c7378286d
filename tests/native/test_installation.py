"""What ``make install`` put into the environment, and what the image gets of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of every Linux; libpthread until glibc 2.34.
EVERYWHERE = r"lib(c|m|pthread)\.so\.\d|ld-linux[\w-]*\.so\.\d"


def test_the_library_is_installed_where_there_is_a_compiler(cxx: str) -> None:
    """The service does without it, so nothing else would tell."""
    assert find_spec("ranktower_native") is not None, f"{cxx} is here: make install, and see .venv/native.log"
    from ranktower_native import paths

    assert paths()[-1] == "portable"


def test_the_library_needs_no_other_library(cxx: str) -> None:
    spec = find_spec("ranktower_native")
    assert spec is not None
    assert spec.origin is not None
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here")
    (library,) = Path(spec.origin).parent.glob("*.so")
    told = subprocess.run(["readelf", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", told)
    assert [name for name in needed if not re.fullmatch(EVERYWHERE, name)] == []
    assert "libc.so.6" in needed


def test_only_a_stage_of_its_own_has_a_compiler_in_the_images() -> None:
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    stages = {stage.split("\n", 1)[0].split(" AS ")[1]: stage for stage in text.split("\nFROM ")[1:]}
    assert [name for name, stage in stages.items() if "g++" in stage] == ["native"]
    assert [name for name, stage in stages.items() if "FROM native" in stage or "--from=native" in stage] == ["service"]
    assert "COPY --from=native /package /\n" in stages["service"]
