"""ONNX Runtime reports nothing: told by what it would leave in the home directory, wherever a program loads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in an interpreter of its own, at home in ``home``."""
    kept = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    own = {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT / "benchmarks" / "peers")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | own | environment, check=True, capture_output=True, text=True
    )


@pytest.mark.parametrize("module", ["service.onnx", "offline.exported", "model_export.parity", "job"])
def test_every_program_loads_it_without_a_trace(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; assert 'onnxruntime' in sys.modules; {module}.onnxruntime.SessionOptions()"
    load(code, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.name in (".onnxruntime", ".ses")] == []


def test_the_environment_may_have_another_value(tmp_path: Path) -> None:
    code = "import os, ranktower.onnx_runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert load(code, tmp_path, ORT_DISABLE_TELEMETRY="true").stdout == "true\n"
