"""Tunes one model of the protocol on a subsample of the users, with as many trials as every other model gets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offline.device import choose_device
from offline.experiment.plan import tuning_key
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, circumstances, read_json, write_json
from offline.experiment.runs import LOG
from offline.experiment.workspace import Workspace, keep_users, link_candidates
from ranktower.data.dataset import PreparedDataset
from ranktower.file_lock import file_lock
from ranktower.training.checkpoint import Progress
from ranktower.training.config import TrainConfig
from ranktower.training.loop import Retrieved, Trainer
from ranktower.training.run import RunFolder, load_retrieval
from ranktower.training.tuning import Report, TrialRecord, tune


@dataclass(frozen=True)
class TuningTask:
    """What a worker process is told: a model of the protocol, and where its data and results lie."""

    model: str
    protocol: Protocol
    workspace: Workspace
    results: ResultFolder
    device: str
    command: str


def tune_model(task: TuningTask) -> Path:
    """Search, or go on with the search, and write every trial; returns the result file."""
    dataset = task.workspace.load()
    identity, path = task.workspace.identity(dataset), task.results.tuning(task.model)
    key = tuning_key(task.protocol, task.model, identity)
    folder = task.workspace.path / "tuning" / f"{task.model}-{key[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock"):
        if path.is_file() and read_json(path)["key"] == key:
            return path
        trials = _search(task, keep_users(dataset, task.protocol.tuning.num_users), folder)
        best = max(trials, key=lambda trial: -1.0 if trial.value is None or trial.pruned else trial.value)
        write_json(
            path,
            {
                "key": key,
                "model": task.model,
                "data_id": identity.data_id,
                "teacher_key": identity.teacher_key,
                "teacher_id": dataset.teacher_id,
                **circumstances(task.command),
                "best": best.params,
                "trials": [asdict(trial) for trial in trials],
            },
        )
    return path


def _search(task: TuningTask, dataset: PreparedDataset, folder: Path) -> list[TrialRecord]:
    protocol, space = task.protocol, task.protocol.models[task.model].search

    def objective(values: Mapping[str, Any], report: Report) -> float:
        config = _config(protocol, task.model, values)
        # A killed trial is asked for again with the same values, and finds its checkpoint.
        run = RunFolder(folder / f"trial-{config.digest()[:8]}")
        try:
            with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log):
                return _train(task, dataset, config, run, report)
        finally:
            # It may have ended before it had a folder, and then its own error is the one to tell.
            shutil.rmtree(run.path, ignore_errors=True)

    return tune(objective, space, base_values(protocol, task.model), protocol.tuning, storage=folder / "trials.sqlite")


def _train(task: TuningTask, dataset: PreparedDataset, config: TrainConfig, run: RunFolder, report: Report) -> float:
    """The best validation NDCG of a run; what ``report`` raises ends it."""
    device = choose_device(task.device)
    link_candidates(task.workspace, dataset, config, run, device)
    candidates = np.load(run.candidates, allow_pickle=False)
    retrieved = Retrieved(load_retrieval(run, config, dataset.encoder), candidates)

    def on_validation(progress: Progress) -> None:
        report([row["ndcg"] for row in progress.validations])

    trainer = Trainer(
        dataset, config, run, retrieved=retrieved, device=device, progress_bar=False, on_validation=on_validation
    )
    return trainer.fit().best_ndcg


def base_values(protocol: Protocol, model: str) -> dict[str, Any]:
    """What the searched values are before they are tuned."""
    base = _config(protocol, model, {}).model_dump(mode="json")
    return {name: _at(base, name) for name in protocol.models[model].search}


def _config(protocol: Protocol, model: str, values: Mapping[str, Any]) -> TrainConfig:
    return protocol.config(model, tuned=values, change=protocol.tuning.change, seed=protocol.tuning.seed)


def _at(content: Any, path: str) -> Any:
    """The value at a path; None where there is none, which no search range holds."""
    for name in path.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
