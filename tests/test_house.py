"""Rules of the house that no single package can hold: who imports whom, what is public, what the service needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ranktower", "offline", "service", "model_export")


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "module", ["service.serve", "service.app", "ranktower.embedding_store.local", "ranktower.release"]
)
def test_the_service_starts_without_torch_and_the_offline_libraries(module: str) -> None:
    """Import contracts see static imports only; this one really imports, with the libraries made unfindable."""
    blocked = ["torch", "polars", "matplotlib", "tqdm", "safetensors", "onnx", "onnxscript", "httpx"]
    code = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import {module}
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_command_line_imports_no_program_until_it_is_used() -> None:
    code = f"""
import sys
from ranktower.cli import main
assert main(["--help"]) == 0
loaded = set(sys.modules) & {set(PACKAGES[1:]) | {"torch", "numpy"}!r}
assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in entry_points(group="ranktower.commands"):
        assert f"ranktower {command.name} " in result.stdout


def test_the_root_package_holds_the_version_only() -> None:
    tree = ast.parse((ROOT / "ranktower/__init__.py").read_text())
    assert [type(node).__name__ for node in tree.body] == ["Expr", "Assign"]


def test_every_version_is_pinned_without_an_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in pins), pins
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for group in groups:
        for requirement in group:
            name = requirement.split("[")[0].lower().replace("_", "-")
            assert name == "ranktower" or name in pinned, name


def test_make_bench_runs_every_benchmark_and_writes_the_figures_last() -> None:
    told = subprocess.run(["make", "-n", "bench"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    run = re.findall(r"benchmarks/\w+\.py", told)
    scripts = (path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
    assert sorted(run) == sorted(f"benchmarks/{path.name}" for path in scripts)
    assert run[-1] == "benchmarks/figures.py"


def test_no_drawer_for_everything() -> None:
    banned = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name in banned] == []
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            "ranktower.blocks",
            {
                "FieldEmbedding",
                "FieldSizes",
                "GatedAttentionUnit",
                "GatedCrossAttentionNetwork",
                "MaximumSimilarity",
                "MultiHeadGatedNetwork",
                "MultiLayerPerceptron",
                "ProjectedRows",
                "SideFeatures",
                "embedding_width",
            },
        ),
        (
            "service.client",
            {
                "AsyncRankTowerClient",
                "AuthenticationError",
                "ConnectionFailedError",
                "DeadlineError",
                "Degraded",
                "Explanation",
                "Explanations",
                "InvalidRequestError",
                "Match",
                "OverloadedError",
                "RankTowerClient",
                "RankTowerError",
                "RankedItem",
                "Ranking",
                "Release",
                "Retries",
                "Scores",
                "ServerError",
                "UnavailableError",
            },
        ),
        (
            "ranktower.models",
            {
                "ARF",
                "ARFConfig",
                "COLD",
                "COLDConfig",
                "DAT",
                "DATConfig",
                "EncodedLists",
                "IntTower",
                "IntTowerConfig",
                "LR",
                "LRConfig",
                "ModelConfig",
                "PreRanker",
                "RankTower",
                "RankTowerConfig",
                "TwoTower",
                "TwoTowerConfig",
                "build_model",
            },
        ),
    ],
)
def test_public_names_are_listed_by_hand(module: str, expected: set[str]) -> None:
    loaded = __import__(module, fromlist=["*"])
    assert set(loaded.__all__) == expected
    assert all(hasattr(loaded, name) for name in expected)
