"""``ranktower train``: a pre-ranker on prepared data, resumable, with metrics and a curve."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offline.device import choose_device
from ranktower.data.candidates import retrieve_candidates
from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.training.checkpoint import Progress, load_about, save_tensors
from ranktower.training.config import TrainConfig
from ranktower.training.curve import plot_curve
from ranktower.training.evaluation import encode_rows
from ranktower.training.loop import Retrieved, Trainer
from ranktower.training.retrieval import train_retrieval
from ranktower.training.run import RunFolder, load_retrieval, read_metrics, write_metrics
from ranktower.training.teacher_folder import with_teacher
from ranktower.training.tensors import side_sizes


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of 'ranktower prepare'")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; a killed run in it goes on")
    parser.add_argument("--teacher", type=Path, help="folder of 'ranktower teach', for its soft labels")
    parser.add_argument("--config", type=Path, help="YAML file; the paper's protocol where left out")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    started = time.monotonic()
    dataset = PreparedDataset.load(options.data)
    if options.teacher:
        dataset = with_teacher(dataset, options.teacher)
    config = TrainConfig.load(options.config) if options.config else TrainConfig()
    progress = run_training(
        dataset, config, RunFolder(options.out), device=choose_device(options.device), show_bar=not options.quiet
    )
    sys.stdout.write(
        f"train: {options.out}, {progress.step} steps, {_outcome(progress, config)}, "
        f"{time.monotonic() - started:.1f} s\n"
    )
    return 0


def _outcome(progress: Progress, config: TrainConfig) -> str:
    if not progress.validations:
        return "no user has a positive in the validation split: no early stopping, the last model is kept"
    return f"best validation NDCG@{config.validation.k} {progress.best_ndcg:.4f} at step {progress.best_step}"


def run_training(
    dataset: PreparedDataset, config: TrainConfig, folder: RunFolder, *, device: torch.device, show_bar: bool
) -> Progress:
    """Train, or go on with, the run in ``folder``, and write its model, metrics and curve.

    Raises:
        ConfigError: the folder holds a run with another configuration, on other data or with another teacher, a side
            has no feature, or ``embedding_widths`` names what is none.
    """
    for side, features in (("user", dataset.spec.user_features), ("item", dataset.spec.item_features)):
        if not features:
            least = f"[{{name: {side}_id, kind: categorical}}]"
            raise ConfigError(f"the data's features.yaml names no {side}_features; the least is {least}")
    # Refused before the folder is this configuration's.
    side_sizes(dataset.encoder, config.embedding_widths)
    folder.path.mkdir(parents=True, exist_ok=True)
    _refuse_another_run(folder, config, dataset)
    config.dump(folder.config)
    dataset.encoder.save(folder.features)
    retrieved = retrieve(dataset, config, folder, device=device, show_bar=show_bar)
    trainer = Trainer(dataset, config, folder, retrieved=retrieved, device=device, progress_bar=show_bar)
    progress = trainer.fit()
    write_metrics(
        folder,
        read_metrics(folder)
        | {
            "data_id": dataset.data_id,
            "teacher_id": dataset.teacher_id,
            "steps": progress.step,
            "best_step": progress.best_step,
            "seconds": round(progress.seconds, 1),
            "device": str(device),
            "num_parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "losses": progress.losses,
            "validations": progress.validations,
        },
    )
    plot_curve(progress.losses, progress.validations, folder.curve)
    return progress


def _refuse_another_run(folder: RunFolder, config: TrainConfig, dataset: PreparedDataset) -> None:
    """A folder is one configuration's on one data set: what an earlier step left in it fits the later ones."""
    if folder.config.is_file() and TrainConfig.load(folder.config).digest() != config.digest():
        raise ConfigError(
            f"{folder.path}: holds a run with another configuration (see its config.yaml); give another --out"
        )
    if folder.retrieval.is_file():
        found = load_about(folder.retrieval).get("data_id")
        if found != dataset.data_id:
            raise ConfigError(f"{folder.path}: holds a run on other data (data_id {found}); give another --out")


def retrieve(
    dataset: PreparedDataset, config: TrainConfig, folder: RunFolder, *, device: torch.device, show_bar: bool
) -> Retrieved:
    """The retrieval model and what it finds; kept in the folder, so that a resumed run draws the same."""
    if folder.candidates.is_file():
        found: NDArray[np.int32] = np.load(folder.candidates, allow_pickle=False)
        return Retrieved(load_retrieval(folder, config, dataset.encoder), found)
    model = train_retrieval(dataset, config, device=device, progress=show_bar)
    save_tensors(folder.retrieval, dict(model.state_dict()), {"data_id": dataset.data_id})
    (users,) = encode_rows(model, dataset.users.features, model.encode_users)
    (items,) = encode_rows(model, dataset.items.features, model.encode_items)
    found = retrieve_candidates(
        users.cpu().numpy(), items.cpu().numpy(), dataset, num_candidates=config.retrieval.num_retrieved
    )
    aside = folder.candidates.with_name(".candidates.part.npy")
    np.save(aside, found, allow_pickle=False)
    aside.replace(folder.candidates)
    return Retrieved(model, found)
