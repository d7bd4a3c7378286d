"""Every way of writing the scorer's graph that was tried: time of 1,000 candidates on one thread, difference to torch.

Run: ``python benchmarks/scorer_variants.py``. All are timed in turns, each with its inputs in the
processor's caches. Differences are on the scale of the sum of cosines, as the release's tolerance is. The result goes
to ``benchmarks/results/scorer_variants-<date>.json``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch_graphs
from graph_edits import (
    SOFTMAX,
    SPLIT_BEFORE_TURNING,
    TRANSPOSED_BATCH,
    WIDENED_BEFORE_TURNING,
    edited,
    normalised_vectors,
)
from numpy.typing import NDArray
from result_file import write_result
from scorer_inputs import ScorerInputs, make_inputs, open_graph, varied_model
from timing import in_turns, take_one_core

from model_export.scorer_graph import build_scorer
from ranktower.embedding_store.codec import RowDtype
from ranktower.models import RankTower

sys.path.append(str(Path(__file__).parent / "peers"))
from naive_graph import write_naive_graph

Variant = tuple[str, bytes, Mapping[str, NDArray[Any]], ScorerInputs]
KEPT = "candidates last, float16 rows (kept)"


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    take_one_core()
    torch.set_num_threads(1)
    figures = measure(options.candidates, options.repeats)
    settings = {"num_candidates": options.candidates, "repeats": options.repeats}
    write_result("scorer_variants", settings | {"variants": figures}, "numpy", "onnxruntime", "torch")


def measure(num_candidates: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median and p99 in microseconds and the largest difference to torch, by variant."""
    model = varied_model()
    calls, differences = {}, {}
    for name, content, feed, inputs in _variants(model, num_candidates):
        session = open_graph(content)
        (scores,) = session.run(["scores"], dict(feed))
        differences[name] = float(np.abs(scores - inputs.expected).max()) * model.similarity.tau.item()
        calls[name] = lambda turn, session=session, feed=dict(feed): session.run(["scores"], feed)
    times = in_turns(calls, repeats, warmed=calls)
    return {name: times[name] | {"max_difference": differences[name]} for name in calls}


def _variants(model: RankTower, num_candidates: int) -> Iterator[Variant]:
    half = make_inputs(model, num_candidates, kind="projected", dtype="float16")
    single = make_inputs(model, num_candidates, kind="projected", dtype="float32")
    yield "the paper's, user expanded", _naive(model), single.embeddings, single
    yield "the paper's, user broadcast", torch_graphs.broadcast_user(model), single.embeddings, single
    yield "decoupled, five float32 arrays (before)", torch_graphs.row_major(model), single.arrays, single
    dtypes: tuple[tuple[RowDtype, ScorerInputs], ...] = (("float16", half), ("float32", single))
    for dtype, inputs in dtypes:
        users = {f"user_{name}": array for name, array in inputs.users.items()}
        feed = {**users, "item_rows": inputs.item_rows}
        yield f"decoupled, {dtype} rows", torch_graphs.row_major_from_rows(model, dtype), feed, inputs
    kept = build_scorer(model, kind="projected", dtype="float16")
    edits = {
        "candidates last, rows cut before they are turned": SPLIT_BEFORE_TURNING,
        "candidates last, query and key in one product of rows": TRANSPOSED_BATCH,
        "candidates last, widened before they are turned": WIDENED_BEFORE_TURNING,
        "candidates last, Softmax as an operator": SOFTMAX,
        "candidates last, normalised vectors made in full": normalised_vectors(kept, model),
    }
    for name, edit in edits.items():
        yield name, edited(kept, edit).SerializeToString(), half.rows, half
    yield KEPT, _bytes(kept), half.rows, half
    content = _bytes(build_scorer(model, kind="projected", dtype="float32"))
    yield "candidates last, float32 rows (kept)", content, single.rows, single
    for dtype in ("float16", "float32"):
        inputs = make_inputs(model, num_candidates, kind="embedding", dtype=dtype)
        content = _bytes(build_scorer(model, kind="embedding", dtype=dtype))
        yield f"candidates last, {dtype} embedding rows (kept)", content, inputs.rows, inputs


def _bytes(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString()
    return content


def _naive(model: RankTower) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "naive.onnx"
        write_naive_graph(model, path)
        return path.read_bytes()


if __name__ == "__main__":
    main()
