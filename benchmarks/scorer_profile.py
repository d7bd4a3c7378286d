"""ONNX Runtime's own profile of today's graphs, operator by operator, at 1,000 candidates on one thread.

Run: ``python benchmarks/scorer_profile.py``. The profiler itself costs some microseconds an operator, so the sum is
more than ``scorer_variants.py`` measures. The result goes to ``benchmarks/results/scorer_profile-<date>.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from result_file import write_result
from scorer_inputs import make_inputs, open_graph, varied_model
from timing import take_one_core

from model_export.scorer_graph import build_scorer
from ranktower.embedding_store.codec import RowKind
from ranktower.onnx_runtime import onnxruntime

_WARM_UP = 20


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    take_one_core()
    torch.set_num_threads(1)
    kinds: tuple[RowKind, ...] = ("projected", "embedding")
    figures = {kind: profile(kind, options.candidates, options.repeats) for kind in kinds}
    settings = {"num_candidates": options.candidates, "repeats": options.repeats}
    write_result("scorer_profile", settings | {"operators": figures}, "numpy", "onnxruntime")


def profile(kind: RowKind, num_candidates: int, repeats: int) -> list[dict[str, Any]]:
    """Operators in the order in which they run: name of what comes out, its shape, median microseconds, share."""
    model = varied_model()
    content = build_scorer(model, kind=kind, dtype="float16")
    for node in content.graph.node:
        node.name = node.output[0]  # a name to find it by in the profile
    inputs = make_inputs(model, num_candidates, kind=kind, dtype="float16")
    with tempfile.TemporaryDirectory() as folder:

        def enable(options: onnxruntime.SessionOptions) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/profile"

        session = open_graph(content.SerializeToString(), change=enable)
        for _ in range(_WARM_UP + repeats):
            session.run(["scores"], inputs.rows)
        events = json.loads(Path(session.end_profiling()).read_text())
    return operators(events, repeats)


def operators(events: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """The kernels among the profiler's events; only the last ``repeats`` runs of each count."""
    times: dict[str, list[float]] = {}
    about: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times.setdefault(name, []).append(float(event["dur"]))
            about[name] = event["args"]
    medians = {name: statistics.median(of[-repeats:]) for name, of in times.items()}
    total = sum(medians.values())
    return [
        {
            "node": name,
            "operator": about[name]["op_name"],
            "output": [next(iter(shape.values())) for shape in about[name]["output_type_shape"]],
            "median_us": round(median, 1),
            "share": round(median / total, 4),
        }
        for name, median in medians.items()
    ]


if __name__ == "__main__":
    main()
