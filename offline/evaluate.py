"""``ranktower evaluate``: Recall@K and NDCG@K of a run on test, beside popularity and the two-tower, in both pools."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.training.config import POOLS
from ranktower.training.evaluation import (
    EvaluationOptions,
    ModelScorer,
    Scorer,
    evaluate,
    popularity_scorer,
)
from ranktower.training.run import TrainedRun, load_run_and_data, read_metrics, write_metrics


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower evaluate", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished training run")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data it was trained on")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--k", type=int, default=100, help="cut-off of Recall and NDCG")
    parser.add_argument("--max-users", type=int, help="evaluate this many users, drawn by --seed; all where left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    if options.k < 1 or (options.max_users is not None and options.max_users < 1):
        raise ConfigError(f"--k and --max-users must be at least 1, got {options.k} and {options.max_users}")
    started = time.monotonic()
    run, dataset = load_run_and_data(options.run, options.data)
    chosen = EvaluationOptions(split=options.split, k=options.k, max_users=options.max_users, seed=options.seed)
    # What the figures depend on; a second evaluation of the same is read, not computed.
    asked = {"run_id": run.run_id, **asdict(chosen)}
    metrics = read_metrics(run.folder)
    reused = metrics.get("evaluation", {}).get("of") == asked
    if not reused:
        rows = compare(run, dataset, chosen, progress=not options.quiet)
        metrics |= {"evaluation": {"of": asked, "results": rows}}
        write_metrics(run.folder, metrics)
    sys.stdout.write(_table(metrics["evaluation"]["results"]))
    told = "reused from" if reused else "written to"
    sys.stdout.write(f"evaluate: {told} {run.folder.metrics}, {time.monotonic() - started:.1f} s\n")
    return 0


def compare(
    run: TrainedRun, dataset: PreparedDataset, options: EvaluationOptions, *, progress: bool
) -> list[dict[str, Any]]:
    """One row for each model and pool: popularity, the run's two-tower retrieval model, the model it trained."""
    scorers: dict[str, Scorer] = {
        "popularity": popularity_scorer(dataset),
        "two-tower": ModelScorer.encode(run.retrieval_model(), dataset),
        run.config.model.name: ModelScorer.encode(run.model, dataset),
    }
    rows = []
    for pool in POOLS:
        for name, scorer in scorers.items():
            result = evaluate(scorer, dataset, replace(options, pool=pool), progress=progress)
            rows.append({"model": name, **result.summary()})
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for pool in POOLS:
        part = [row for row in rows if row["pool"] == pool]
        k, users, split = part[0]["k"], part[0]["num_users"], part[0]["split"]
        if not users:
            lines.append(
                f"\n  {split}, pool: {pool.replace('_', ' ')}: no user has a positive, so there is nothing to measure"
            )
            continue
        lines.append(f"\n  {split}, pool: {pool.replace('_', ' ')}, {users:,} users")
        lines.append(f"  {'model':<12}{f'Recall@{k}':>12}{f'NDCG@{k}':>12}")
        lines += [f"  {row['model']:<12}{row['recall']:>12.4f}{row['ndcg']:>12.4f}" for row in part]
    return "\n".join(lines) + "\n\n"
