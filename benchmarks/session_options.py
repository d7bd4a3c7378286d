"""What ONNX Runtime's options do to one call of the scorer, at 1,000 and 10,000 candidates.

Run: ``python benchmarks/session_options.py``. Everything in turns, inputs in the processor's caches where they fit. All
but the settings with two threads have one core. The result goes to ``benchmarks/results/session_options-<date>.json``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from result_file import write_result
from scorer_inputs import ScorerInputs, make_inputs, open_graph, varied_model
from timing import Calls, in_turns, take_one_core

from model_export.scorer_graph import build_scorer
from ranktower.onnx_runtime import onnxruntime

SIZES = (1000, 10_000)
BLOCKS = (128, 256, 512, 1024)
_Level = onnxruntime.GraphOptimizationLevel
_SPINNING = "session.intra_op.allow_spinning"


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="at 1,000 candidates; a fifth of it at 10,000")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    take_one_core()
    model = varied_model()
    content = build_scorer(model, kind="projected", dtype="float16").SerializeToString()
    figures: dict[str, Any] = {}
    for size in SIZES:
        inputs = make_inputs(model, size, kind="projected", dtype="float16")
        repeats = options.repeats if size == SIZES[0] else max(options.repeats // 5, 1)
        calls: Calls = {**settings(content, inputs), **blocks(content, inputs, size)}
        found = in_turns(calls, repeats, warmed=calls)
        if len(cores) > 1:
            os.sched_setaffinity(0, cores)
            # Threads inherit the cores of who starts them, so these sessions are opened only now.
            calls = threads(content, inputs)
            found |= in_turns(calls, repeats, warmed=calls)
            take_one_core()
        figures[str(size)] = found
    write_result("session_options", {"repeats": options.repeats, "times": figures}, "numpy", "onnxruntime")


def _set(name: str, value: object) -> Callable[[onnxruntime.SessionOptions], None]:
    def change(options: onnxruntime.SessionOptions) -> None:
        setattr(options, name, value)

    return change


def settings(content: bytes, inputs: ScorerInputs) -> Calls:
    """One change each to how the service opens its sessions."""
    changes: dict[str, Callable[[onnxruntime.SessionOptions], None]] = {
        "as served: 1 thread, arena, memory pattern, all optimisations": lambda options: None,
        "memory arena off": _set("enable_cpu_mem_arena", False),
        "memory pattern off": _set("enable_mem_pattern", False),
        "optimisations: extended": _set("graph_optimization_level", _Level.ORT_ENABLE_EXTENDED),
        "optimisations: basic": _set("graph_optimization_level", _Level.ORT_ENABLE_BASIC),
        "optimisations: none": _set("graph_optimization_level", _Level.ORT_DISABLE_ALL),
    }
    calls: dict[str, Callable[[int], Any]] = {}
    for name, change in changes.items():
        calls[name] = _run(open_graph(content, change=change), inputs)
    calls["transpose optimiser off"] = _run(open_graph(content, disabled=("TransposeOptimizer",)), inputs)
    calls["outputs bound to a kept array"] = _bound(open_graph(content), inputs)
    return calls


def threads(content: bytes, inputs: ScorerInputs) -> Calls:
    """One thread and two, where this process may use two cores."""

    def two(spinning: str) -> Callable[[onnxruntime.SessionOptions], None]:
        def change(options: onnxruntime.SessionOptions) -> None:
            options.intra_op_num_threads = 2
            options.add_session_config_entry(_SPINNING, spinning)

        return change

    changes: dict[str, Callable[[onnxruntime.SessionOptions], None]] = {
        "1 thread, both cores": lambda options: None,
        # This order: the second thread of a spinning session still has its core when the next call begins.
        "2 threads, no spinning": two("0"),
        "2 threads, spinning": two("1"),
    }
    return {name: _run(open_graph(content, change=change), inputs) for name, change in changes.items()}


def _run(session: onnxruntime.InferenceSession, inputs: ScorerInputs) -> Callable[[int], Any]:
    return lambda turn: session.run(["scores"], inputs.rows)


def _bound(session: onnxruntime.InferenceSession, inputs: ScorerInputs) -> Callable[[int], Any]:
    """Inputs are bound anew each time, as a request's would be; the output goes to one array."""
    binding = session.io_binding()
    kept = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(len(inputs.item_rows), dtype=np.float32))
    binding.bind_ortvalue_output("scores", kept)

    def call(turn: int) -> Any:
        for name, rows in inputs.rows.items():
            binding.bind_cpu_input(name, rows)
        session.run_with_iobinding(binding)
        return kept.numpy().copy()

    return call


def blocks(content: bytes, inputs: ScorerInputs, size: int) -> Calls:
    """Candidates scored so many at a time."""
    session = open_graph(content)

    def scoring(block: int) -> Callable[[int], Any]:
        def call(turn: int) -> Any:
            scores = np.empty(size, dtype=np.float32)
            for start in range(0, size, block):
                rows = inputs.item_rows[start : start + block]
                feed = {"user_rows": inputs.user_rows, "item_rows": rows}
                scores[start : start + block] = session.run(["scores"], feed)[0]
            return scores

        return call

    return {f"blocks of {block}": scoring(block) for block in BLOCKS if block < size} | {"one block": scoring(size)}


if __name__ == "__main__":
    main()
