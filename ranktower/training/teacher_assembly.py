"""From what the rankers of all folds predict to one soft label an impression, and a report of its quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.dataset import PreparedDataset, array_sha256
from ranktower.errors import ConfigError
from ranktower.training.checkpoint import load_tensors
from ranktower.training.classification_metrics import auc, log_loss
from ranktower.training.ranker_training import Floats
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder
from ranktower.training.teacher_splits import ON_TEST, ON_VALIDATION, OUT_OF_FOLD, Places, TeacherSplits
from ranktower.training.teacher_weights import fit_weights


def assemble(
    dataset: PreparedDataset, config: TeacherConfig, folder: TeacherFolder, splits: TeacherSplits
) -> tuple[Floats, dict[str, Any]]:
    """Soft labels, one an interaction, and the report of a teacher whose rankers are all in its folder.

    The report gives AUC and log loss of every member, and of the ensemble, on the training split out of fold and on
    validation and test as the mean over the folds. Weights and the end of training were chosen on validation, so its
    figures there flatter.

    Raises:
        ConfigError: a ranker's file is missing or damaged.
    """
    names = [member.name for member in config.members]
    files = [
        [_read(folder.member(name, fold), splits.predicted(fold)) for fold in range(config.num_folds)] for name in names
    ]
    predictions = [[predicted for predicted, _ in member] for member in files]
    labels = dataset.interactions.feedback > 0
    # [num_folds, M]
    weights = np.stack(
        [
            fit_weights(np.stack([member[fold][ON_VALIDATION] for member in predictions]), labels[splits.validation])
            for fold in range(config.num_folds)
        ]
    )
    scores = _scores(predictions, weights, splits, len(labels))
    members = []
    for place, name in enumerate(names):
        alone = np.zeros_like(weights)
        alone[:, place] = 1
        members.append(
            {
                "name": name,
                "weight": float(weights[:, place].mean()),
                **_training([about for _, about in files[place]]),
                **_quality(_scores(predictions, alone, splits, len(labels)), labels, splits),
            }
        )
    return scores, {
        "data_id": dataset.data_id,
        "teacher_id": array_sha256(scores),
        "config": config.model_dump(mode="json"),
        "weights_by_fold": weights.tolist(),
        "members": members,
        "ensemble": _quality(scores, labels, splits),
    }


def _read(path: Path, predicted: dict[str, Places]) -> tuple[dict[str, Floats], dict[str, Any]]:
    """What the ranker in a file predicts, by name, and what is told about it. Its weights are not read."""
    tensors, about = load_tensors(path, prefix="predictions.")
    for name, places in predicted.items():
        found = tensors.get(f"predictions.{name}")
        if found is None or found.shape != (len(places),):
            raise ConfigError(
                f"{path}: damaged, it has no {len(places)} predictions.{name}; remove it to train it again"
            )
    return {name: tensors[f"predictions.{name}"].numpy() for name in predicted}, about


def _scores(
    predictions: list[list[dict[str, Floats]]], weights: NDArray[np.float64], splits: TeacherSplits, num_rows: int
) -> Floats:
    """Means ``[num_rows]`` of what M members predict, ``weights [num_folds, M]``; NaN where nothing is predicted."""

    def mixed(fold: int, name: str) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = weights[fold] @ np.stack([member[fold][name] for member in predictions])
        return mean

    scores = np.full(num_rows, np.nan, dtype=np.float32)
    for fold, places in enumerate(splits.folds):
        scores[places] = mixed(fold, OUT_OF_FOLD)
    for name, places in ((ON_VALIDATION, splits.validation), (ON_TEST, splits.test)):
        scores[places] = np.mean([mixed(fold, name) for fold in range(len(weights))], axis=0)
    # The weights' sum is 1 but for rounding.
    return scores.clip(0, 1)


def _quality(scores: Floats, labels: NDArray[np.bool_], splits: TeacherSplits) -> dict[str, dict[str, float | None]]:
    parts = {OUT_OF_FOLD: np.concatenate(splits.folds), ON_VALIDATION: splits.validation, ON_TEST: splits.test}
    return {
        name: {"auc": auc(scores[places], labels[places]), "log_loss": log_loss(scores[places], labels[places])}
        for name, places in parts.items()
        if len(places)
    }


def _training(abouts: list[dict[str, Any]]) -> dict[str, Any]:
    """How a member was trained, over its folds."""
    seconds = sum(about["seconds"] for about in abouts)
    return {
        "num_parameters": abouts[0]["num_parameters"],
        "seconds": round(seconds, 1),
        "pairs_per_s": round(sum(about["num_trained"] for about in abouts) / seconds),
        "validations_by_fold": [about["validations"] for about in abouts],
    }
