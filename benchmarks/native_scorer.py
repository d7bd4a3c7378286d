"""The native scorer on each of its code paths, against ONNX Runtime over the same rows, and against the machine.

Run: ``python benchmarks/native_scorer.py``. One thread on one core, everything in turns, each call once
unmeasured first, because a service has just done the same. Rows lie in the memory-mapped
table of a reference release: ``random``, other rows of 200,000 every time, and ``in cache``, drawn from the first 500.
ONNX Runtime's time has the gather of the rows in it, which the native scorer does itself. The peak is that of a product
of two matrices by torch, the bandwidth that of a copy by NumPy. The result goes to
``benchmarks/results/native_scorer-<date>.json``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from ranktower_native import NativeScorer, paths, read_scorer
from result_file import write_result
from service_run import SETUPS, reference
from timing import in_turns, take_one_core

from ranktower.embedding_store.local import LocalTable
from ranktower.release import SCORERS, TABLES, Shape
from service.scorer import Scorer

STAGES = {
    "float16 rows": "local",
    "float32 rows": "local, float32 rows",
    "float16 embedding rows": "local, embedding rows",
}
_IN_CACHE = 500
_NUM_DRAWS = 256


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    take_one_core()
    torch.set_num_threads(1)
    stages = {}
    for name in STAGES:
        stages[name] = measure(name, options.rows, options.candidates, options.repeats)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "repeats": options.repeats}
    write_result("native_scorer", {**settings, "machine_peaks": peaks(), "stages": stages}, "numpy", "onnxruntime")


def measure(name: str, num_rows: int, num_candidates: int, repeats: int) -> dict[str, Any]:
    """Times in microseconds by where the rows lie and by what scores them, the ratios, and the work of a candidate."""
    release = reference(SETUPS[STAGES[name]], num_users=num_rows, num_items=num_rows)
    manifest, layout = release.manifest, release.manifest.layout("item")
    table = LocalTable(release.folder / TABLES["item"], layout)
    user = LocalTable(release.folder / TABLES["user"], manifest.layout("user")).rows_at(np.array([0]))
    scorer = Scorer(release.folder, manifest, [layout.kind], engine="onnx")
    shape, constants = read_scorer(release.folder / SCORERS[layout.kind])
    native = {path: NativeScorer(shape, constants, path=path) for path in paths()}
    times = {}
    for place, among in (("random", len(table)), ("in cache", _IN_CACHE)):
        draws = _draws(among, num_candidates)
        calls: dict[str, Callable[[int], Any]] = {
            path: lambda _, one=one, next_draw=draws: one.score(user, *table.in_place(next(next_draw)))
            for path, one in native.items()
        }
        calls["onnx"] = lambda _, next_draw=draws: scorer.score_reference(user, layout, table.rows_at(next(next_draw)))
        times[place] = in_turns(calls, repeats, warmed=calls)
    fastest = paths()[0]
    ratios = {place: round(of["onnx"]["median_us"] / of[fastest]["median_us"], 2) for place, of in times.items()}
    work = {"bytes": layout.row_size, "multiply_adds": multiply_adds(manifest.shape, is_projected=shape.is_projected)}
    return {"times": times, "fastest_path": fastest, "onnx_to_fastest": ratios, "of_a_candidate": work}


def _draws(num_rows: int, num_candidates: int) -> Iterator[Any]:
    """Row numbers of one call after the other, never twice the same soon."""
    return itertools.cycle(np.random.default_rng(0).integers(0, num_rows, (_NUM_DRAWS, num_candidates)))


def multiply_adds(shape: Shape, *, is_projected: bool) -> int:
    """Of one candidate, in the matrices and sums of the formulas alone; exponentials and the like are not counted."""
    hu, hi, d, a = shape.num_user_heads, shape.num_item_heads, shape.width, shape.attention_width
    logits, weighted, outputs = 2 * hu * hi * a, 2 * hu * hi * a, (hu + hi) * d * a
    norms, products = 5 * (hu + hi) * d, hu * hi * d
    return logits + weighted + outputs + norms + products + (0 if is_projected else 4 * hi * d * a)


def peaks() -> dict[str, float]:
    """What one core does at best: multiply-adds of float32 and bytes copied (read and written), both a nanosecond."""
    size = 1024
    left, right = torch.rand(size, size), torch.rand(size, size)
    product_s = _fastest_s(lambda: torch.mm(left, right))
    source = np.ones(1 << 26, dtype=np.uint64)
    target = np.empty_like(source)
    copy_s = _fastest_s(lambda: np.copyto(target, source))
    return {
        "multiply_adds_per_ns": round(size**3 / product_s / 1e9, 1),
        "copied_bytes_per_ns": round(2 * source.nbytes / copy_s / 1e9, 1),
    }


def _fastest_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(15):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
