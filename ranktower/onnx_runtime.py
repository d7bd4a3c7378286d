"""ONNX Runtime, imported so that it sends nothing home. Every program takes it from here; ruff refuses other imports.

Left alone, the library reports its use to its maker over the network, and keeps an id in the home directory.
"""

from __future__ import annotations

import os

# Read once, while the library is loaded: what switches the reports off later comes too late for the first of them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: TID251

__all__ = ["onnxruntime"]
