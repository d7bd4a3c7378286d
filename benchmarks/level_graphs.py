"""The graphs of the ladder's levels beside the scorer, and what comes behind: time of 1,000 candidates on one thread.

Run: ``python benchmarks/level_graphs.py``. All are timed in turns, each with its inputs in the processor's caches. What
the scorer's outputs for explain cost where nobody asks for them is little beside what sessions of one graph differ by,
so there are five sessions of the graph with them and five of it without. The result goes to
``benchmarks/results/level_graphs-<date>.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from graph_edits import Edit, edited
from result_file import write_result
from scorer_inputs import ScorerInputs, make_inputs, open_graph, varied_model
from timing import in_turns, take_one_core

from model_export.calibration import fit_calibration
from model_export.level_graphs import build_level
from model_export.scorer_graph import build_scorer
from ranktower.ladder import mix

_SESSIONS = 5
# The maximum similarity of the stored multi-embeddings themselves, without the model's LayerNorm.
WITHOUT_LAYER_NORM = Edit(
    (
        *("u_mean", "u_x", "u_x_square", "u_variance", "u_guarded", "u_deviation", "u_scaled", "u_weighted", "u_y"),
        *("u_of_x", "u_constant", "i_mean", "i_x", "i_squares", "i_variance", "of_x", "sums", "dots", "i_guarded"),
        *("i_deviation", "i_inverse", "i_scaled_once", "i_with_own", "i_scaled_twice", "i_squared_length"),
        *("scaled_dots", "products"),
    ),
    """
  u_y = Identity (u_embedding)
  i_x = Identity (embedding)
  i_squared_length = MatMul (ones, i_square)
  products = MatMul (user, embedding)
""",
    {"ones": np.ones((1, 32), dtype=np.float32)},
)


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=500)
    options = parser.parse_args()
    take_one_core()
    torch.set_num_threads(1)
    figures = measure(options.candidates, options.repeats)
    explain = explain_cost(options.candidates, options.repeats)
    settings = {"num_candidates": options.candidates, "repeats": options.repeats}
    write_result("level_graphs", settings | {"levels": figures, "explain": explain}, "numpy", "onnxruntime")


def measure(num_candidates: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median and p99 in microseconds, by what was timed."""
    model = varied_model()
    projected = make_inputs(model, num_candidates, kind="projected", dtype="float16")
    stored = make_inputs(model, num_candidates, kind="embedding", dtype="float16")
    maxsim = build_level(model, "maxsim", dtype="float16")
    graphs = {
        "scorer.onnx": (build_scorer(model, kind="projected", dtype="float16"), projected),
        "embedding_scorer.onnx": (build_scorer(model, kind="embedding", dtype="float16"), stored),
        "maxsim.onnx": (maxsim, stored),
        "maxsim without LayerNorm": (edited(maxsim, WITHOUT_LAYER_NORM), stored),
        "pooled.onnx": (build_level(model, "pooled", dtype="float16"), stored),
    }
    calls = {}
    for name, (graph, inputs) in graphs.items():
        calls[name] = _scoring(graph, inputs)
    lower, full = calls["maxsim.onnx"](0)[0], calls["scorer.onnx"](0)[0]
    calibration = fit_calibration(lower, full)
    chosen = np.argsort(-lower)[: num_candidates // 10]
    calls["calibration"] = lambda turn: calibration.apply(lower)
    calls["mix"] = lambda turn: mix(full, lower, chosen)
    return in_turns(calls, repeats, warmed=calls)


def explain_cost(num_candidates: int, repeats: int) -> dict[str, Any]:
    """Medians in microseconds of the sessions of both graphs, the ratio of their medians, and by how much sessions of
    one graph differ, largest to smallest."""
    model = varied_model()
    inputs = make_inputs(model, num_candidates, kind="projected", dtype="float16")
    scorer = build_scorer(model, kind="projected", dtype="float16")
    graphs = {"with": scorer, "without": _only_scores(scorer)}
    calls = {f"{name} {number}": _scoring(graphs[name], inputs) for number in range(_SESSIONS) for name in graphs}
    times = in_turns(calls, repeats, warmed=calls)
    medians = {name: [times[f"{name} {number}"]["median_us"] for number in range(_SESSIONS)] for name in graphs}
    return {
        "with_us": medians["with"],
        "without_us": medians["without"],
        "with_to_without": round(statistics.median(medians["with"]) / statistics.median(medians["without"]), 4),
        "largest_to_smallest_of_one_graph": round(max(max(of) / min(of) for of in medians.values()), 4),
    }


def _scoring(graph: onnx.ModelProto, inputs: ScorerInputs) -> Callable[[int], Any]:
    session = open_graph(graph.SerializeToString())
    return lambda turn: session.run(["scores"], inputs.rows)


def _only_scores(graph: onnx.ModelProto) -> onnx.ModelProto:
    lean = onnx.ModelProto()
    lean.CopyFrom(graph)
    del lean.graph.output[1:]
    return lean


if __name__ == "__main__":
    main()
