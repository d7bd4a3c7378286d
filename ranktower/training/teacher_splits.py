"""Which impressions a teacher is trained on, and which it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ranktower.data.dataset import TEST, TRAIN, VALIDATION, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.errors import ConfigError

Places = NDArray[np.int64]

# What the models of a fold predict: names of the predictions in their files and of the figures in the report.
OUT_OF_FOLD, ON_VALIDATION, ON_TEST = "out_of_fold", "validation", "test"


@dataclass(frozen=True)
class TeacherSplits:
    """Places of impressions among a data set's interactions.

    Attributes:
        folds: of the training split, in parts that no two share.
        validation, test: of the other splits.
    """

    folds: list[Places]
    validation: Places
    test: Places

    @classmethod
    def of(cls, dataset: PreparedDataset, *, num_folds: int, seed: int) -> Self:
        """Folds of nearly equal size, drawn by ``seed`` without a look at any label.

        Raises:
            ConfigError: the training split lacks positives, or negatives, or has fewer impressions than folds.
        """
        rows = dataset.interactions
        shown = rows.stage == STAGES.index("impression")
        training, validation, test = (
            np.flatnonzero(shown & (rows.split == code)) for code in (TRAIN, VALIDATION, TEST)
        )
        num_positive = int((rows.feedback[training] > 0).sum())
        if num_positive in (0, len(training)) or len(training) < num_folds:
            raise ConfigError(
                f"the training split has {num_positive} positives among {len(training)} impressions, which teaches "
                f"nothing in {num_folds} folds"
            )
        fold = np.random.default_rng(seed).permutation(len(training)) % num_folds
        return cls([training[fold == number] for number in range(num_folds)], validation, test)

    def predicted(self, fold: int) -> dict[str, Places]:
        """The impressions that the models of a fold predict."""
        return {OUT_OF_FOLD: self.folds[fold], ON_VALIDATION: self.validation, ON_TEST: self.test}

    def all_but(self, fold: int) -> Places:
        """The training impressions that the models of a fold are trained on."""
        return np.concatenate([places for number, places in enumerate(self.folds) if number != fold])
