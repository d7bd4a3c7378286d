"""Single operators of ONNX Runtime at the shapes of the scorer's graph, each in the ways it could be written.

Run: ``python benchmarks/operator_costs.py``. One thread, float32 where nothing else is said, 1,000
candidates, in turns, with inputs in the processor's caches. Each time includes that of an empty run, which stands in
the result. The result goes to ``benchmarks/results/operator_costs-<date>.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import parser as onnx_parser
from result_file import write_result
from scorer_inputs import open_graph
from timing import in_turns, take_one_core

_HEAD = '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>'
_AXIS = "axis = Constant <value_ints = [{}]> ()"
_FUSED = "com.microsoft.FusedMatMul"
N = 1000


@dataclass(frozen=True)
class Operator:
    """What to run: nodes from ``a`` (and ``b``, ``c``, ``d``) to ``y``.

    Attributes:
        group: operators that do the same job, or are compared for another reason.
        inputs: shapes in the order of the letters.
        rank: of ``y``.
    """

    group: str
    name: str
    nodes: str
    inputs: Sequence[tuple[int, ...]]
    rank: int
    half: bool = False


OPERATORS = (
    Operator("run", "empty", "y = Identity (a)", [(4,)], 1),
    Operator("attention logits", "N products 4x32x4", f"y = {_FUSED} <transB = 1> (a, b)", [(N, 4, 32), (N, 4, 32)], 3),
    Operator(
        "attention logits", "blocks of four pairs, 16x32x16", f"y = {_FUSED} <transB = 1> (a, b)",
        [(N // 4, 16, 32), (N // 4, 16, 32)], 3,
    ),
    Operator("attention logits", "one user, rows: [4N, 32] x [32, 4]", "y = MatMul (a, b)", [(4 * N, 32), (32, 4)], 2),
    Operator(
        "attention logits", "one user, candidates last: [4, 32] x [4, 32, N]", "y = MatMul (a, b)",
        [(4, 32), (4, 32, N)], 3,
    ),
    Operator("weighted values", "N products 4x4x32", "y = MatMul (a, b)", [(N, 4, 4), (N, 4, 32)], 3),
    Operator(
        "weighted values", "blocks of four pairs, 16x16x32", "y = MatMul (a, b)",
        [(N // 4, 16, 16), (N // 4, 16, 32)], 3,
    ),
    Operator(
        "weighted values", "candidates last: Mul and ReduceSum",
        f"{_AXIS.format(1)} z = Mul (a, b) y = ReduceSum <keepdims = 0> (z, axis)", [(4, 4, 1, N), (1, 4, 32, N)], 3,
    ),
    Operator("linear map", "rows: [4N, 32] x [32, 32]", "y = MatMul (a, b)", [(4 * N, 32), (32, 32)], 2),
    Operator("linear map", "candidates last: [32, 32] x [4, 32, N]", "y = MatMul (a, b)", [(32, 32), (4, 32, N)], 3),
    Operator("softmax over 4", "Softmax, last axis", "y = Softmax <axis = -1> (a)", [(N, 4, 4)], 3),
    Operator("softmax over 4", "Softmax, middle axis, candidates last", "y = Softmax <axis = 1> (a)", [(4, 4, N)], 3),
    Operator(
        "softmax over 4", "written out, last axis",
        f"{_AXIS.format(2)} m = ReduceMax (a, axis) s = Sub (a, m) e = Exp (s) t = ReduceSum (e, axis) y = Div (e, t)",
        [(N, 4, 4)], 3,
    ),
    Operator(
        "softmax over 4", "written out, candidates last",
        f"{_AXIS.format(1)} m = ReduceMax (a, axis) s = Sub (a, m) e = Exp (s) t = ReduceSum (e, axis) y = Div (e, t)",
        [(4, 4, N)], 3,
    ),
    Operator(
        "normalisation", "LayerNormalization, rows", "y = LayerNormalization <axis = -1> (a, b, c)",
        [(4 * N, 32), (32,), (32,)], 2,
    ),
    Operator(
        "normalisation", "SkipLayerNormalization, rows", "y = com.microsoft.SkipLayerNormalization (a, b, c, d)",
        [(1, 4 * N, 32), (1, 4 * N, 32), (32,), (32,)], 3,
    ),
    Operator(
        "normalisation", "InstanceNormalization, rows", "y = InstanceNormalization (a, b, c)",
        [(1, 4 * N, 32), (4 * N,), (4 * N,)], 3,
    ),
    Operator(
        "normalisation", "written out, candidates last",
        f"{_AXIS.format(1)} q = Mul (a, a) v = ReduceMean (q, axis) r = Sqrt (v) i = Reciprocal (r) x = Mul (a, i)"
        " y = BatchNormalization <epsilon = 0.0> (x, b, c, b, b)",
        [(4, 32, N), (32,), (32,)], 3,
    ),
    Operator("length", "LpNormalization, rows", "y = LpNormalization <axis = -1> (a)", [(4 * N, 32)], 2),
    Operator("length", "ReduceL2, rows", f"{_AXIS.format(1)} y = ReduceL2 (a, axis)", [(4 * N, 32)], 2),
    Operator(
        "length", "Mul and ReduceSum, candidates last", f"{_AXIS.format(1)} q = Mul (a, a) y = ReduceSum (q, axis)",
        [(4, 32, N)], 3,
    ),
    Operator("Mul", "same shape", "y = Mul (a, b)", [(4 * N, 32), (4 * N, 32)], 2),
    Operator("Mul", "a row for all", "y = Mul (a, b)", [(4 * N, 32), (32,)], 2),
    Operator("Mul", "a number a row", "y = Mul (a, b)", [(4 * N, 32), (4 * N, 1)], 2),
    Operator("Mul", "a number a candidate, candidates last", "y = Mul (a, b)", [(4, 32, N), (4, 1, N)], 3),
    Operator("cosines", "N products 4x32x4", f"y = {_FUSED} <transB = 1> (a, b)", [(N, 4, 32), (N, 4, 32)], 3),
    Operator(
        "cosines", "Mul and ReduceSum, candidates last",
        f"{_AXIS.format(2)} z = Mul (a, b) y = ReduceSum <keepdims = 0> (z, axis)", [(4, 1, 32, N), (1, 4, 32, N)], 3,
    ),
    Operator("rows", "Transpose, float32 [N, 640]", "y = Transpose <perm = [1, 0]> (a)", [(N, 640)], 2),
    Operator("rows", "Transpose, float16 [N, 644]", "y = Transpose <perm = [1, 0]> (a)", [(N, 644)], 2, True),
    Operator("rows", "Cast, float16 [N, 644]", "y = Cast <to = 1> (a)", [(N, 644)], 2, True),
    Operator(
        "rows", "Split by columns, float16 [N, 644]",
        "s = Constant <value_ints = [4, 128, 128, 128, 128, 128]> () t, y, y2, y3, y4, y5 = Split <axis = 1> (a, s)",
        [(N, 644)], 2, True,
    ),
    Operator(
        "rows", "Split by rows, float16 [644, N]",
        "s = Constant <value_ints = [4, 128, 128, 128, 128, 128]> () t, y, y2, y3, y4, y5 = Split <axis = 0> (a, s)",
        [(644, N)], 2, True,
    ),
)  # fmt: skip


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    take_one_core()
    calls = {f"{operator.group}|{operator.name}": call(operator) for operator in OPERATORS}
    times = in_turns(calls, options.repeats, warmed=calls)
    figures: dict[str, dict[str, float]] = {}
    for key, found in times.items():
        group, _, name = key.partition("|")
        figures.setdefault(group, {})[name] = found["median_us"]
    write_result("operator_costs", {"num_candidates": N, "median_us": figures}, "numpy", "onnxruntime")


def call(operator: Operator) -> Callable[[int], Any]:
    """One run of a graph with these nodes only."""
    generator = np.random.default_rng(0)
    element = "float16" if operator.half else "float"
    feed: dict[str, NDArray[Any]] = {}
    for letter, shape in zip("abcd", operator.inputs, strict=False):
        # Positive, so that what stands for a variance is one.
        feed[letter] = generator.uniform(0.1, 1.0, shape).astype(np.float16 if operator.half else np.float32)
    inputs = ", ".join(f"{element}[{','.join(map(str, array.shape))}] {letter}" for letter, array in feed.items())
    dimensions = ",".join(f"d{number}" for number in range(operator.rank))
    outputs = [f"y{number}" for number in ("", 2, 3, 4, 5) if f"y{number}" in operator.nodes]
    gives = "float" if "Cast" in operator.nodes or not operator.half else "float16"
    given = ", ".join(f"{gives}[{dimensions}] {name}" for name in outputs)
    text = f"{_HEAD} one ({inputs}) => ({given}) {{ {operator.nodes} }}"
    session = open_graph(onnx_parser.parse_model(text).SerializeToString())
    return lambda turn: session.run(outputs, feed)


if __name__ == "__main__":
    main()
