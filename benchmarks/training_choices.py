"""What the demo's training choices are worth: each one undone, alone, with the same seed and number of epochs.

Run: ``python benchmarks/training_choices.py --data build/demo/kuairand/prepared`` after a demo. One seed and a part of
the validation users: enough to see a choice that decides, not enough to rank two that are close.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from result_file import write_result

from offline.train import run_training
from ranktower.data.dataset import PreparedDataset
from ranktower.training.config import TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, Scorer, evaluate, popularity_scorer
from ranktower.training.run import RunFolder, load_run

CONFIG = Path(__file__).parents[1] / "offline" / "demo.yaml"
# What is undone, and the part of the configuration that does it.
CHOICES: dict[str, dict[str, Any]] = {
    "as in the demo": {},
    "candidates from the 100 best retrieved, not 1,000": {"retrieval": {"num_retrieved": 100}},
    "no candidates": {"sampling": {"num_candidates": 0}},
    "softsort at weight 1": {"loss": {"fine_weight": 1.0}},
    "no softsort": {"loss": {"fine_weight": 0.0}},
    "random field embeddings": {"warm_start": False},
}


def main() -> None:
    """Train every variant and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/demo/kuairand/prepared"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--users", type=int, default=1000, help="validation users")
    options = parser.parse_args()
    dataset = PreparedDataset.load(options.data)
    demo = TrainConfig.load(CONFIG).model_dump() | {"max_epochs": options.epochs}
    rows: list[dict[str, Any]] = [_row("popularity", popularity_scorer(dataset), dataset, options.users)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, change) in enumerate(CHOICES.items()):
            config = TrainConfig.model_validate(_merged(demo, change))
            run = RunFolder(Path(folder) / str(number))
            first = RunFolder(Path(folder) / "0")
            if number and "retrieval" not in change:  # the same retrieval model gives the same candidates
                run.path.mkdir()
                for ours, theirs in ((run.retrieval, first.retrieval), (run.candidates, first.candidates)):
                    shutil.copyfile(theirs, ours)
            run_training(dataset, config, run, device=torch.device("cpu"), show_bar=True)
            trained = load_run(run.path)
            if not number:
                scorer = ModelScorer.encode(trained.retrieval_model(), dataset)
                rows.append(_row("two-tower", scorer, dataset, options.users))
            rows.append(_row(name, ModelScorer.encode(trained.model, dataset), dataset, options.users))
    write_result("training_choices", {"epochs": options.epochs, "results": rows}, "torch")


def _merged(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _merged(value, change[key]) if isinstance(value, dict) and key in change else change.get(key, value)
        for key, value in config.items()
    }


def _row(name: str, scorer: Scorer, dataset: PreparedDataset, users: int) -> dict[str, Any]:
    result = evaluate(scorer, dataset, EvaluationOptions(split="validation", max_users=users), progress=True)
    return {"choice": name, **result.summary()}


if __name__ == "__main__":
    main()
