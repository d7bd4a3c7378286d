"""Benchmarks are scripts: they find each other beside themselves, so the tests put their folders on the path."""

from __future__ import annotations

import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
for folder in (_BENCHMARKS, _BENCHMARKS / "peers", _BENCHMARKS / "locust"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
