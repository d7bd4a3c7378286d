"""One run from its plan to its result file: train, evaluate, compare with the teacher, look at the probabilities."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offline.device import choose_device
from offline.experiment.calibration import calibration
from offline.experiment.consistency import consistency, teacher_lists
from offline.experiment.plan import PlannedRun
from offline.experiment.results import ResultFolder, Results, circumstances, pack, write_json
from offline.experiment.workspace import Workspace, link_candidates, share_of_users
from offline.train import run_training
from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import FullStageSampler
from ranktower.file_lock import file_lock
from ranktower.training.checkpoint import load_about
from ranktower.training.config import POOLS, TrainConfig
from ranktower.training.evaluation import ModelScorer, evaluate
from ranktower.training.run import RunFolder, load_run, read_metrics

# In the run's folder: what training says, which several runs at once would only mingle.
LOG = "train.log"


@dataclass(frozen=True)
class RunTask:
    """What a worker process is told.

    Attributes:
        run: the plan.
        workspace: where the data lie, and the run's folder goes.
        results: where the result goes.
        device: as of ``--device``.
        command: kept in the result.
    """

    run: PlannedRun
    workspace: Workspace
    results: ResultFolder
    device: str
    command: str


def execute(task: RunTask) -> Path:
    """Do the run, or go on with it where it was stopped; returns its result file.

    Several processes may be asked for the same run: the others wait, and find it done.
    """
    dataset = task.workspace.load()
    identity = task.workspace.identity(dataset)
    path = task.results.run(task.run, identity)
    folder = RunFolder(task.workspace.path / "runs" / path.stem)
    folder.path.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.path / ".lock"):
        if Results(task.results).find(task.run) is None:
            _forget_another(folder, task.run.config, dataset.teacher_id)
            trained_on = share_of_users(dataset, task.run.train_users)
            with (folder.path / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log):
                candidates = _train(task, trained_on, folder)
            write_json(
                path,
                {
                    "key": task.run.key(identity),
                    "name": task.run.name,
                    "title": task.run.title,
                    "data_id": identity.data_id,
                    "teacher_key": identity.teacher_key,
                    "teacher_id": dataset.teacher_id,
                    "seed": task.run.config.seed,
                    "train_users": task.run.train_users,
                    "test_users": task.run.test_users,
                    "revision": task.run.revision,
                    "config": task.run.config.model_dump(mode="json"),
                    "test": task.run.test.model_dump(mode="json"),
                    **circumstances(task.command),
                    "training": _training(folder, trained_on, task.run.config),
                    **_measure(task, folder, dataset, candidates),
                },
            )
    return path


def _train(task: RunTask, dataset: PreparedDataset, folder: RunFolder) -> Path:
    """Train; returns the file of the candidates that all runs with the same retrieval share."""
    device = choose_device(task.device)
    shared = link_candidates(task.workspace, dataset, task.run.config, folder, device)
    run_training(dataset, task.run.config, folder, device=device, show_bar=False)
    return shared.candidates


def _measure(task: RunTask, folder: RunFolder, dataset: PreparedDataset, candidates: Path) -> dict[str, Any]:
    """Everything a result says about the trained model in ``folder``."""
    test, tested_on = task.run.test, share_of_users(dataset, task.run.test_users)
    model = load_run(folder.path).model.to(choose_device(task.device))
    scorer = ModelScorer.encode(model, tested_on)
    found = {pool: evaluate(scorer, tested_on, test.evaluation(pool)) for pool in POOLS}
    corpus = found["full_corpus"]
    agreement = None
    if task.workspace.teacher is not None:
        lists = teacher_lists(dataset, task.workspace.teacher, candidates, test.consistency, tested_on=tested_on)
        agreement = consistency(scorer, lists)
    return {
        "metrics": {pool: result.summary() for pool, result in found.items()},
        "per_user": {"ndcg": pack(corpus.ndcgs), "recall": pack(corpus.recalls)},
        "consistency": agreement,
        "calibration": calibration(scorer, tested_on, test.calibration),
    }


def _training(folder: RunFolder, dataset: PreparedDataset, config: TrainConfig) -> dict[str, Any]:
    """What training took. Pairs a second count the real items of the lists, and the time of the validations too."""
    metrics = read_metrics(folder)
    candidates = np.load(folder.candidates, allow_pickle=False)
    sampler = FullStageSampler(dataset, config.sampling, candidates)
    pairs_a_step = float(np.mean([batch.mask.sum() for batch in sampler.epoch(0, config.batch_lists)]))
    kept = ("seconds", "steps", "best_step", "device", "num_parameters", "validations")
    pairs_per_s = round(pairs_a_step * metrics["steps"] / max(metrics["seconds"], 0.1))
    measured = {"pairs_per_s": pairs_per_s, "steps_per_epoch": sampler.num_batches(config.batch_lists)}
    return {**{name: metrics[name] for name in kept}, **measured}


def _forget_another(folder: RunFolder, config: TrainConfig, teacher_id: str) -> None:
    """What cannot be gone on with: a default has got another value since, or the teacher was made anew."""
    same = not folder.config.is_file() or TrainConfig.load(folder.config).digest() == config.digest()
    if same and folder.checkpoint.is_file():
        same = load_about(folder.checkpoint).get("teacher_id", "") == teacher_id
    if not same:
        for path in folder.path.iterdir():
            if path.name != ".lock":
                path.unlink()
