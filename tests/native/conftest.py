"""Builds the harness of the native library, with the flags that ``native/CMakeLists.txt`` gives to each file."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 240


@dataclass(frozen=True)
class Harness:
    """``harness.cpp`` with the library's sources in it."""

    program: Path
    before: tuple[str, ...] = ()
    """What runs the program, such as an emulator."""

    def run(self, *arguments: object) -> str:
        """Run it; returns what it printed, its errors are the assertion's text."""
        command = [*self.before, str(self.program), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, f"{' '.join(command)}: ended with {done.returncode}\n{done.stderr[-4000:]}"
        return done.stdout

    def paths(self) -> list[str]:
        """Names of the code paths it chooses among, fastest first."""
        return self.run("paths").split()

    def hold(self, mode: str, count: int) -> None:
        """Compare scores with the reference; the seed is fixed, so that a failure comes again."""
        assert re.fullmatch(rf"{mode}: [1-9]\d* held\n", self.run(mode, 1, count))


BuildHarness = Callable[..., Harness]


@cache
def compiler() -> str | None:
    """The C++ compiler that ``make install`` builds the library with, as it looks for one."""
    return next((name for name in COMPILERS if shutil.which(name)), None)


@pytest.fixture(scope="session")
def cxx() -> str:
    """The C++ compiler; the test is skipped where there is none."""
    found = compiler()
    if found is None:
        pytest.skip(f"no C++ compiler here: none of {', '.join(COMPILERS)}")
    return found


@pytest.fixture(scope="session")
def build_harness(tmp_path_factory: pytest.TempPathFactory) -> BuildHarness:
    """``build_harness("g++", "-O3", machine="x86_64", before=(), program="ids_driver")``: a program of this folder with
    the library's sources in it, which are compiled once for each compiler and flags."""
    folders: dict[tuple[str, ...], Path] = {}

    def build(
        cxx: str,
        *flags: str,
        machine: str = platform.machine(),
        before: Sequence[str] = (),
        program: str = "harness",
    ) -> Harness:
        key = (cxx, *flags)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("native")
        if not (folders[key] / program).exists():
            _build(folders[key], key, machine, program)
        return Harness(folders[key] / program, tuple(before))

    return build


def _build(folder: Path, command: Sequence[str], machine: str, program: str) -> None:
    """The program, of one object a source file; those of the library may be in the folder already."""
    own = Path(__file__).with_name(f"{program}.cpp")
    jobs = [([*command, "-std=gnu++17", "-Wall", "-Wextra", f"-I{NATIVE / 'src'}"], own)]
    jobs += [([*command, "-std=gnu++17", *flags], source) for source, flags in _sources(command[0], machine).items()]

    def compile_one(job: tuple[list[str], Path]) -> str:
        flags, source = job
        target = folder / f"{source.stem}.o"
        if not target.exists():
            _run([*flags, "-c", str(source), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    _run([*command, "-pthread", *objects, "-o", str(folder / program)])


def _sources(cxx: str, machine: str) -> dict[Path, list[str]]:
    """The library's source files and their flags: that of the build, and of no list beside it that would grow old."""
    text = re.sub(r"#.*", "", (NATIVE / "CMakeLists.txt").read_text(encoding="utf-8"))
    (common,) = re.findall(r"^target_compile_options\(ranktower_native PRIVATE(.*?)\)", text, re.DOTALL | re.MULTILINE)
    (for_gcc,) = re.findall(r"^  target_compile_options\(ranktower_native PRIVATE(.*?)\)", text, re.MULTILINE)
    (names,) = re.findall(r"add_library\(ranktower_native SHARED (.*?)\)", text, re.DOTALL)
    sources: dict[Path, list[str]] = {NATIVE / name: [] for name in names.split()}
    if machine == "x86_64":
        special = re.findall(r"set_source_files_properties\((\S+) PROPERTIES COMPILE_OPTIONS\s+\"(.*?)\"\)", text)
        sources |= {NATIVE / name: flags.split(";") for name, flags in special}
        assert {"path_avx512.cpp", "path_avx2.cpp"} < {source.name for source in sources}
    is_gcc = "clang" not in _run([cxx, "--version"])
    shared = common.split() + (for_gcc.split() if is_gcc else [])
    return {source: [*shared, *flags] for source, flags in sources.items()}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"
    return done.stdout
