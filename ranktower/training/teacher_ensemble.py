"""A finished teacher as a function of any pair, also of one that was never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.models.ranker import Ranker
from ranktower.models.ranker_choice import build_ranker
from ranktower.training.checkpoint import load_tensors
from ranktower.training.ranker_training import Floats, PairFeatures, predict
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder, check_member

Rows = NDArray[np.integer[Any]]


class TeacherEnsemble:
    """The weighted mean over members and the mean over folds: for an impression of the test split, its soft label."""

    def __init__(self, features: PairFeatures, rankers: list[tuple[float, Ranker]], *, positive_weight: float) -> None:
        """``rankers`` come with their shares, 1 in sum."""
        self.features, self.rankers, self.positive_weight = features, rankers, positive_weight

    @classmethod
    def load(cls, folder: Path, dataset: PreparedDataset, *, device: torch.device | None = None) -> Self:
        """Read the teacher of ``dataset`` in ``folder``; onto the CPU where no device is given.

        Raises:
            ConfigError: the folder holds no finished teacher of this data set, or a damaged one.
        """
        device = device or torch.device("cpu")
        teacher = TeacherFolder(folder)
        report = teacher.read_report(dataset)
        config = TeacherConfig.parse(report["config"], where=str(teacher.report))
        if [len(weights) for weights in report["weights_by_fold"]] != [len(config.members)] * config.num_folds:
            raise ConfigError(
                f"{teacher.report}: weights_by_fold are not those of {len(config.members)} members in "
                f"{config.num_folds} folds"
            )
        features = PairFeatures.of(dataset, device)
        rankers = []
        for fold, weights in enumerate(report["weights_by_fold"]):
            for member, weight in zip(config.members, weights, strict=True):
                if not weight:
                    continue
                ranker = build_ranker(member, features.user_sizes, features.item_sizes)
                _restore(ranker, teacher.member(member.name, fold), data_id=dataset.data_id, config=config)
                rankers.append((weight / config.num_folds, ranker.to(device)))
        return cls(features, rankers, positive_weight=config.positive_weight)

    def score(self, user_rows: Rows, item_rows: Rows) -> Floats:
        """Probabilities float32 ``[n]`` of positive feedback, for the pairs of two arrays of row numbers ``[n]``."""
        device = self.features.users.codes.device
        users, items = (torch.from_numpy(rows.astype(np.int64)).to(device) for rows in (user_rows, item_rows))
        mean = np.zeros(len(user_rows))
        for share, ranker in self.rankers:
            mean += share * predict(ranker, self.features, users, items, positive_weight=self.positive_weight)
        return mean.clip(0, 1).astype(np.float32)


def _restore(ranker: Ranker, path: Path, *, data_id: str, config: TeacherConfig) -> None:
    tensors, about = load_tensors(path, prefix="model.")
    check_member(path, about, data_id=data_id, config=config)
    try:
        ranker.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ConfigError(f"{path}: damaged, {' '.join(str(error).split())}") from None
