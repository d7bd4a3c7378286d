"""What the native scorer over stored rows does to the ranking of real data, against torch in float32 from the features.

Run: ``make demo`` and then ``python benchmarks/native_quality.py``. Full corpus, users of the test split, model and
release of the demo. The result goes to ``benchmarks/results/native_quality-<date>.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ranktower_native import NativeScorer, read_scorer
from result_file import write_result

from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.local import LocalTable
from ranktower.registry import Registry
from ranktower.release import SCORERS, TABLES, read_manifest
from ranktower.training.evaluation import EvaluationOptions, Ints, ModelScorer, evaluate
from ranktower.training.run import load_run

MODEL = "demo"


def main() -> None:
    """Evaluate both, and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo/kuairand"))
    parser.add_argument("--max-users", type=int, default=1000, help="test users evaluated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry(options.work / "registry")
    pointer = registry.current(MODEL)
    if pointer is None:
        raise SystemExit(f"{options.work}: no release of the demo; run make demo")
    folder = registry.release_dir(MODEL, pointer.release)
    (run_folder,) = options.work.glob("run-*")
    run, dataset = load_run(run_folder), PreparedDataset.load(options.work / "prepared")
    chosen = EvaluationOptions(max_users=options.max_users)
    exact = evaluate(ModelScorer.encode(run.ranktower, dataset), dataset, chosen, progress=True)
    native = evaluate(NativeScores(folder, dataset), dataset, chosen, progress=True)
    figures = {"torch_float32": exact.summary(), "native_stored_rows": native.summary()}
    figures |= {"rows": read_manifest(folder).row_dtype, "ndcg_change": abs(exact.ndcg - native.ndcg)}
    write_result("native_quality", figures, "torch", "numpy")


class NativeScores:
    """Scores of the native scorer, by row numbers of a data set instead of ids."""

    def __init__(self, folder: Path, dataset: PreparedDataset) -> None:
        """Open a release that was made from ``dataset``."""
        manifest = read_manifest(folder)
        self._users = LocalTable(folder / TABLES["user"], manifest.layout("user"))
        self._items = LocalTable(folder / TABLES["item"], manifest.layout("item"))
        self._user_ids = dataset.users.ids
        self._item_rows, present = self._items.find(dataset.items.ids.tolist())
        if not present.all():
            raise SystemExit(f"{folder}: {int((~present).sum())} items of the data set are not stored")
        self._scorer = NativeScorer(*read_scorer(folder / SCORERS[manifest.item_rows]))

    def __call__(self, user_row: int, item_rows: Ints) -> NDArray[np.float32]:
        """Logits ``[n]`` of one user's items ``[n]``."""
        user = self._users.fetch([self._user_ids[user_row]]).raw
        return self._scorer.score(user, *self._items.in_place(self._item_rows[item_rows]))


if __name__ == "__main__":
    main()
