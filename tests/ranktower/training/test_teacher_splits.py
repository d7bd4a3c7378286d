from __future__ import annotations

from dataclasses import replace

import numpy as np

from ranktower.data.dataset import TEST, TRAIN, VALIDATION, PreparedDataset
from ranktower.training.teacher_splits import TeacherSplits


def test_folds_part_the_training_impressions(simulated: PreparedDataset) -> None:
    rows = simulated.interactions
    splits = TeacherSplits.of(simulated, num_folds=4, seed=0)
    for places, split in (
        (np.sort(np.concatenate(splits.folds)), TRAIN),
        (splits.validation, VALIDATION),
        (splits.test, TEST),
    ):
        np.testing.assert_array_equal(places, np.flatnonzero((rows.stage == 0) & (rows.split == split)))
    sizes = [len(fold) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in range(4):
        assert not np.isin(splits.all_but(fold), splits.folds[fold]).any()
        assert len(splits.all_but(fold)) == sum(sizes) - sizes[fold]


def test_folds_depend_on_the_seed_and_on_no_label(simulated: PreparedDataset) -> None:
    rows = simulated.interactions
    other = replace(simulated, interactions=replace(rows, feedback=(rows.feedback == 0).astype(np.float32)))
    folds = TeacherSplits.of(simulated, num_folds=3, seed=0).folds
    assert all(map(np.array_equal, folds, TeacherSplits.of(other, num_folds=3, seed=0).folds))
    assert not all(map(np.array_equal, folds, TeacherSplits.of(simulated, num_folds=3, seed=1).folds))
