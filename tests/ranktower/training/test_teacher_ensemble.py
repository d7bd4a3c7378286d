from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.training.teacher_ensemble import TeacherEnsemble
from ranktower.training.teacher_folder import TeacherFolder
from ranktower.training.teacher_splits import TeacherSplits


@pytest.fixture(scope="module")
def ensemble(simulated: PreparedDataset, teacher_folder: Path) -> TeacherEnsemble:
    return TeacherEnsemble.load(teacher_folder, simulated)


def test_it_gives_a_test_impression_its_soft_label(
    simulated: PreparedDataset, teacher_folder: Path, ensemble: TeacherEnsemble
) -> None:
    places = TeacherSplits.of(simulated, num_folds=3, seed=0).test
    rows = simulated.interactions.take(places)
    found = ensemble.score(rows.user_row, rows.item_row)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.load(TeacherFolder(teacher_folder).scores)[places], rtol=1e-5)


def test_any_pair_can_be_scored_alone_or_among_others(simulated: PreparedDataset, ensemble: TeacherEnsemble) -> None:
    items = np.arange(len(simulated.items))
    together = ensemble.score(np.full(len(items), 7), items)
    assert ((together > 0) & (together < 1)).all()
    for item in (0, 150, 299):
        np.testing.assert_allclose(ensemble.score(np.array([7]), np.array([item])), together[item], rtol=1e-5)
    assert len(ensemble.score(items[:0], items[:0])) == 0


def test_what_is_no_teacher_is_refused(simulated: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished teacher"):
        TeacherEnsemble.load(tmp_path, simulated)
