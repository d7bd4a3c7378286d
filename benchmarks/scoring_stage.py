"""The scoring stage, the gather from a table of 200,000 items included, against the decoupled graph on cached rows.

Run: ``python benchmarks/scoring_stage.py``. One thread, 1,000 candidates, everything in turns; each call runs once
unmeasured first, because a service has just run the same graph too and a turn of the others would leave its buffers out
of the caches. The graphs alone have their inputs in the caches as well; a stage takes other rows of the memory-mapped
table every time, checks their tags and scores them as the service does. The result goes to
``benchmarks/results/scoring_stage-<date>.json``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch_graphs
from reference_release import reference_model
from result_file import write_result
from scorer_inputs import make_inputs, open_graph
from service_run import SETUPS, Release, reference
from timing import in_turns, take_one_core

from ranktower.embedding_store.local import LocalTable
from ranktower.release import SCORERS, TABLES
from service.scorer import Scorer

BASELINE = "decoupled graph alone, five float32 arrays (before)"
STAGES = {
    "float16 rows": "local",
    "float32 rows": "local, float32 rows",
    "float16 embedding rows": "local, embedding rows",
}
_NUM_DRAWS = 256


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=500)
    options = parser.parse_args()
    take_one_core()
    torch.set_num_threads(1)
    model = reference_model()
    baseline = open_graph(torch_graphs.row_major(model))
    inputs = make_inputs(model, options.candidates, kind="projected", dtype="float32")
    calls: dict[str, Callable[[int], Any]] = {BASELINE: lambda turn: baseline.run(["scores"], inputs.arrays)}
    for name, setup in STAGES.items():
        release = reference(SETUPS[setup], num_users=options.rows, num_items=options.rows)
        calls |= _calls(name, release, options.candidates)
    times = in_turns(calls, options.repeats, warmed=calls.keys())
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "repeats": options.repeats}
    figures = settings | {"times": times, "ratios": _ratios(times)}
    write_result("scoring_stage", figures, "numpy", "onnxruntime", "torch")


def _calls(name: str, release: Release, num_candidates: int) -> dict[str, Callable[[int], Any]]:
    layout = release.manifest.layout("item")
    table = LocalTable(release.folder / TABLES["item"], layout)
    scorer = Scorer(release.folder, release.manifest, [layout.kind], engine="onnx")
    session = open_graph((release.folder / SCORERS[layout.kind]).read_bytes())
    users = LocalTable(release.folder / TABLES["user"], release.manifest.layout("user"))
    user = users.rows_at(np.array([0]))
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(table), (_NUM_DRAWS, num_candidates))
    present = np.ones(num_candidates, dtype=np.bool_)
    feed = {"user_rows": users.layout.values(user), "item_rows": layout.values(table.rows_at(drawn[0]))}

    number = itertools.count()

    def gather(turn: int) -> Any:
        # Not by the turn: the unmeasured call before would leave the same rows in the caches.
        raw = table.rows_at(drawn[next(number) % _NUM_DRAWS])
        return layout.reject(raw, present, num_stored=num_candidates)

    return {
        f"graph alone, {name}": lambda turn: session.run(["scores"], feed),
        f"stage: gather, {name}": gather,
        f"stage: gather and score, {name}": lambda turn: scorer.score(user, layout, gather(turn).raw),
    }


def _ratios(times: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The whole stage over the graph of before and over today's, both alone."""
    before = times[BASELINE]["median_us"]
    ratios = {}
    for name in STAGES:
        stage = times[f"stage: gather and score, {name}"]["median_us"]
        alone = times[f"graph alone, {name}"]["median_us"]
        ratios[name] = {"to the graph before": round(stage / before, 2), "to the graph alone": round(stage / alone, 2)}
    return ratios


if __name__ == "__main__":
    main()
