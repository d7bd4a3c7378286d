from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.training.checkpoint import load_tensors, save_tensors
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


@pytest.fixture
def copied(teacher_folder: Path, tmp_path: Path) -> TeacherFolder:
    return TeacherFolder(Path(shutil.copytree(teacher_folder, tmp_path / "teacher")))


def weighed_member(folder: TeacherFolder) -> Path:
    """The file of a ranker that counts in the ensemble."""
    report = json.loads(folder.report.read_text())
    names = [member["name"] for member in report["members"]]
    return folder.member(names[int(np.argmax(report["weights_by_fold"][0]))], 0)


def test_a_damaged_member_is_named(simulated: PreparedDataset, copied: TeacherFolder) -> None:
    path = weighed_member(copied)
    tensors, about = load_tensors(path)
    predictions = {name: tensor for name, tensor in tensors.items() if name.startswith("predictions.")}
    shorter = tensors | {"model.embedding.weight": tensors["model.embedding.weight"][:-1]}
    for content, problem in (
        (predictions, "damaged, .*Missing key.*embedding.weight"),
        (shorter, "damaged, .*size mismatch for embedding.weight"),
        (tensors | {"model.more": torch.zeros(1)}, "damaged, .*Unexpected key.*more"),
    ):
        save_tensors(path, content, about)
        with pytest.raises(ConfigError, match=rf"{path.name}: {problem}"):
            TeacherEnsemble.load(copied.path, simulated)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"{path.name}: damaged safetensors file"):
        TeacherEnsemble.load(copied.path, simulated)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{path.name}: there is no such file"):
        TeacherEnsemble.load(copied.path, simulated)


@pytest.mark.parametrize("key", ["data_id", "config_digest"])
def test_a_member_of_another_teacher_is_refused(simulated: PreparedDataset, copied: TeacherFolder, key: str) -> None:
    path = weighed_member(copied)
    tensors, about = load_tensors(path)
    save_tensors(path, tensors, about | {key: "f" * 64})
    with pytest.raises(ConfigError, match=rf"{path.name}: of a teacher with {key} ffffffffffff, not {about[key][:12]}"):
        TeacherEnsemble.load(copied.path, simulated)
    # A file of before the digest was kept.
    if key == "config_digest":
        del about[key]
        save_tensors(path, tensors, about)
        TeacherEnsemble.load(copied.path, simulated)


def test_the_configuration_is_the_reports(
    simulated: PreparedDataset, copied: TeacherFolder, ensemble: TeacherEnsemble
) -> None:
    """Whatever became of ``config.yaml``, which is there to be read by people."""
    copied.config.write_text("members: [{name: deepfm}]")
    rows = np.arange(20)
    found = TeacherEnsemble.load(copied.path, simulated).score(rows, rows)
    np.testing.assert_array_equal(found, ensemble.score(rows, rows))
    report = json.loads(copied.report.read_text())
    del report["config"]["members"][0]
    copied.report.write_text(json.dumps(report))
    with pytest.raises(ConfigError, match=r"teacher\.json: weights_by_fold are not those of 3 members in 3 folds"):
        TeacherEnsemble.load(copied.path, simulated)
