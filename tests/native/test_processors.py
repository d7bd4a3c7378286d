"""The same scores from every processor and compiler. Older processors are emulated: they choose a path they can run."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

X86_PATHS = ["avx512", "avx2", "portable"]
ALL_MODES = {"models": 600, "lengths": 40, "extremes": 400, "bad_values": 60, "refusals": 1, "threads": 200}
# An emulator takes fifty times as long.
FEW = {"models": 6, "lengths": 2, "extremes": 20, "bad_values": 1, "refusals": 1, "threads": 5}
WITH_AVX2 = """
#include <immintrin.h>
int main(int argc, char**) {
  const __m256i sum = _mm256_add_epi32(_mm256_set1_epi32(argc), _mm256_set1_epi32(1));
  return _mm256_extract_epi32(sum, 0) != argc + 1;
}
"""


def needs(*commands: str) -> None:
    """Skip the test where one of the commands is missing."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")


@pytest.fixture(scope="module")
def run_with_avx2(cxx: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """``run_with_avx2(cpu)``: what an AVX2 instruction ends with on an emulated processor."""
    folder = tmp_path_factory.mktemp("with_avx2")
    (folder / "with_avx2.cpp").write_text(WITH_AVX2, encoding="utf-8")
    command = [cxx, "-O1", "-mavx2", str(folder / "with_avx2.cpp"), "-o", str(folder / "with_avx2")]
    subprocess.run(command, check=True, capture_output=True)

    def run(cpu: str) -> int:
        command = ["qemu-x86_64", "-cpu", cpu, str(folder / "with_avx2")]
        return subprocess.run(command, check=False, capture_output=True).returncode

    return run


@pytest.mark.parametrize("mode", ALL_MODES)
def test_this_processor(build_harness: Callable[..., Any], cxx: str, mode: str) -> None:
    harness = build_harness(cxx, "-O3", "-Werror")
    assert harness.paths() == [path for path in X86_PATHS if path in harness.paths()]
    assert harness.paths()[-1] == "portable"
    harness.hold(mode, ALL_MODES[mode])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="qemu-x86_64 would need a compiler for x86-64")
@pytest.mark.parametrize(("cpu", "paths"), [("Nehalem", ["portable"]), ("Haswell", ["avx2", "portable"])])
def test_an_older_processor_meets_no_instruction_it_lacks(
    build_harness: Callable[..., Any], cxx: str, run_with_avx2: Callable[[str], int], cpu: str, paths: list[str]
) -> None:
    needs("qemu-x86_64")
    if "avx2" in paths and run_with_avx2(cpu) != 0:
        pytest.skip("this qemu cannot do AVX2: 7.2 is the first that can")
    if "avx2" not in paths:
        assert run_with_avx2(cpu) == -signal.SIGILL, "the emulator would notice nothing"
    harness = build_harness(cxx, "-O3", "-Werror", before=("qemu-x86_64", "-cpu", cpu))
    assert harness.paths() == paths
    for mode, count in FEW.items():
        harness.hold(mode, count)


def test_arm(build_harness: Callable[..., Any]) -> None:
    needs("aarch64-linux-gnu-g++", "qemu-aarch64")
    flags = ("-O3", "-Werror", "-static")  # static: the emulated system has no shared libraries
    harness = build_harness("aarch64-linux-gnu-g++", *flags, machine="aarch64", before=("qemu-aarch64",))
    assert harness.paths() == ["portable"]
    for mode, count in FEW.items():
        harness.hold(mode, count)


def test_clang(build_harness: Callable[..., Any]) -> None:
    needs("clang++")
    harness = build_harness("clang++", "-O3", "-Werror")
    for mode, count in ALL_MODES.items():
        harness.hold(mode, count)


def test_what_is_compiled_for_a_path_is_used_by_no_other(build_harness: Callable[..., Any], cxx: str) -> None:
    """A function that several object files hold is linked once: the portable path could get one with AVX-512 in it."""
    needs("nm")
    folder = Path(build_harness(cxx, "-O3", "-Werror").program).parent
    for path in folder.glob("path_*.o"):
        symbols = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout
        assert "ranktower" in symbols
        assert [line for line in symbols.splitlines() if line[17:18] in set("uVW")] == [], path.name
