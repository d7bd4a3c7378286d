"""The teacher on real (simulated) data. No soft label may know its own impression's feedback; that is shown first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ranktower.data.dataset import TEST, TRAIN, UNUSED, VALIDATION, PreparedDataset, with_content_id
from ranktower.data.feature_spec import Feature
from ranktower.data.prepare import PrepareOptions, SortedTables, build_dataset, sort_tables, split_interactions
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.errors import ConfigError
from ranktower.training.checkpoint import load_tensors, save_tensors
from ranktower.training.classification_metrics import auc, log_loss
from ranktower.training.teacher import TeacherTrainer
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder
from ranktower.training.teacher_splits import TeacherSplits

CPU = torch.device("cpu")
Floats = NDArray[np.float32]


def taught(dataset: PreparedDataset, config: TeacherConfig, folder: Path) -> tuple[Floats, dict[str, Any]]:
    report = TeacherTrainer(dataset, config, TeacherFolder(folder), device=CPU, progress_bar=False).fit()
    return np.load(TeacherFolder(folder).scores), report


def flipped(dataset: PreparedDataset, places: NDArray[np.int64]) -> PreparedDataset:
    feedback = dataset.interactions.feedback.copy()
    feedback[places] = np.where(feedback[places] > 0, 0, 1)
    return replace(dataset, interactions=replace(dataset.interactions, feedback=feedback))


def impressions(dataset: PreparedDataset, split: int) -> NDArray[np.int64]:
    rows = dataset.interactions
    return np.flatnonzero((rows.stage == 0) & (rows.split == split))


@pytest.fixture(scope="module")
def scores(teacher_folder: Path) -> Floats:
    found: Floats = np.load(TeacherFolder(teacher_folder).scores)
    return found


def test_an_impressions_own_feedback_does_not_move_its_soft_label(
    simulated: PreparedDataset, small_teacher: TeacherConfig, scores: Floats, tmp_path: Path
) -> None:
    """All feedback of one fold flipped: not a bit of the fold's soft labels moves, and every other fold's do."""
    splits = TeacherSplits.of(simulated, num_folds=3, seed=0)
    changed, _ = taught(flipped(simulated, splits.folds[1]), small_teacher, tmp_path / "teacher")
    np.testing.assert_array_equal(changed[splits.folds[1]], scores[splits.folds[1]])
    for other in (0, 2):
        assert np.mean(changed[splits.folds[other]] != scores[splits.folds[other]]) > 0.99


def test_feedback_of_the_test_split_moves_nothing(
    simulated: PreparedDataset, small_teacher: TeacherConfig, scores: Floats, tmp_path: Path
) -> None:
    changed, _ = taught(flipped(simulated, impressions(simulated, TEST)), small_teacher, tmp_path / "teacher")
    np.testing.assert_array_equal(changed, scores)


def test_feedback_of_the_validation_split_moves_the_weights_alone(
    simulated: PreparedDataset, small_teacher: TeacherConfig, teacher_folder: Path, tmp_path: Path
) -> None:
    """Beside the end of training, which the one epoch of this teacher leaves no choice of."""
    _, report = taught(flipped(simulated, impressions(simulated, VALIDATION)), small_teacher, tmp_path / "teacher")
    before = json.loads(TeacherFolder(teacher_folder).report.read_text())
    assert report["weights_by_fold"] != before["weights_by_fold"]
    paths = sorted(teacher_folder.glob("*.safetensors"))
    assert len(paths) == 12
    for path in paths:
        tensors, again = load_tensors(path)[0], load_tensors(tmp_path / "teacher" / path.name)[0]
        assert all(torch.equal(tensors[name], again[name]) for name in tensors)


@pytest.fixture(scope="module")
def with_history() -> tuple[SortedTables, PreparedDataset]:
    """Simulated tables whose users have a history: the items of their positive training impressions."""
    tables = simulate(SimulatorOptions(num_users=60, num_items=80, requests_per_user=6.0, seed=3)).tables
    history = Feature(name="history", kind="history", max_length=50)
    features = (*tables.spec.user_features, history)
    tables = replace(tables, spec=tables.spec.model_copy(update={"user_features": features}))
    in_order = sort_tables(tables)
    interactions = split_interactions(
        in_order, tables.interactions, PrepareOptions(min_impressions=10, min_positives=1)
    )
    return in_order, build_dataset(in_order, interactions, info={})


def test_nor_does_it_by_way_of_a_history(
    with_history: tuple[SortedTables, PreparedDataset], small_teacher: TeacherConfig, tmp_path: Path
) -> None:
    in_order, dataset = with_history
    places = TeacherSplits.of(dataset, num_folds=3, seed=0).folds[0]
    other = build_dataset(in_order, flipped(dataset, places).interactions, info={})
    assert not np.array_equal(other.users.features.bags["history"], dataset.users.features.bags["history"])
    before, _ = taught(dataset, small_teacher, tmp_path / "before")
    after, _ = taught(other, small_teacher, tmp_path / "after")
    np.testing.assert_array_equal(after[places], before[places])
    assert not np.array_equal(after, before, equal_nan=True)


def test_every_used_impression_has_a_probability_and_nothing_else_has(
    simulated: PreparedDataset, scores: Floats
) -> None:
    rows = simulated.interactions
    used = (rows.stage == 0) & (rows.split != UNUSED)
    assert scores.dtype == np.float32
    assert ((scores[used] > 0) & (scores[used] < 1)).all()
    assert used.any()
    assert np.isnan(scores[~used]).all()
    assert not used.all()


def test_scores_are_the_weighted_means_of_the_folds_files(
    simulated: PreparedDataset, small_teacher: TeacherConfig, teacher_folder: Path, scores: Floats
) -> None:
    folder = TeacherFolder(teacher_folder)
    weights = json.loads(folder.report.read_text())["weights_by_fold"]
    splits = TeacherSplits.of(simulated, num_folds=3, seed=0)
    assert [sum(fold) for fold in weights] == pytest.approx([1] * 3)
    test = np.zeros(len(splits.test))
    for fold, places in enumerate(splits.folds):
        own = np.zeros(len(places))
        for member, weight in zip(small_teacher.members, weights[fold], strict=True):
            assert weight >= 0
            tensors, _ = load_tensors(folder.member(member.name, fold))
            own += weight * tensors["predictions.out_of_fold"].numpy()
            test += weight * tensors["predictions.test"].numpy() / 3
        np.testing.assert_allclose(scores[places], own, rtol=1e-5)
    np.testing.assert_allclose(scores[splits.test], test, rtol=1e-5)


def test_the_report_tells_the_quality_of_ensemble_and_members(
    simulated: PreparedDataset, teacher_folder: Path, scores: Floats
) -> None:
    folder = TeacherFolder(teacher_folder)
    report = json.loads(folder.report.read_text())
    for name, split in (("out_of_fold", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        places = impressions(simulated, split)
        labels = simulated.interactions.feedback[places] > 0
        assert report["ensemble"][name]["auc"] == pytest.approx(auc(scores[places], labels))
        assert report["ensemble"][name]["log_loss"] == pytest.approx(log_loss(scores[places], labels))
    # The mean over folds of mixtures of least log loss: no member alone is better by more than the folds differ.
    best = min(member["validation"]["log_loss"] for member in report["members"])
    assert report["ensemble"]["validation"]["log_loss"] < best + 1e-3
    for member in report["members"]:
        assert member["num_parameters"] > 0
        assert member["pairs_per_s"] > 0
        assert [len(rows) for rows in member["validations_by_fold"]] == [1, 1, 1]
    assert sum(member["weight"] for member in report["members"]) == pytest.approx(1)


def test_what_is_there_is_not_trained_again(
    simulated: PreparedDataset,
    small_teacher: TeacherConfig,
    teacher_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder that lacks one member's fold trains that one, and ends with the same bytes."""
    whole, part = TeacherFolder(teacher_folder), TeacherFolder(tmp_path)
    for path in teacher_folder.iterdir():
        if path not in {whole.scores, whole.report, whole.member("dcn_v2", 1)}:
            (tmp_path / path.name).hardlink_to(path)
    trained: list[str] = []
    real: Callable[..., None] = TeacherTrainer._train_member
    monkeypatch.setattr(
        TeacherTrainer,
        "_train_member",
        lambda self, member, fold, bar: (trained.append(f"{member.name} {fold}"), real(self, member, fold, bar)),
    )
    _, report = taught(simulated, small_teacher, tmp_path)
    assert trained == ["dcn_v2 1"]
    assert part.scores.read_bytes() == whole.scores.read_bytes()
    assert taught(simulated, small_teacher, tmp_path)[1] == report
    assert trained == ["dcn_v2 1"]


@pytest.mark.parametrize("name", ["teacher_scores.npy", "teacher.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_damaged_results_are_made_again_from_the_members(
    simulated: PreparedDataset,
    small_teacher: TeacherConfig,
    teacher_folder: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
) -> None:
    for path in teacher_folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).hardlink_to(path)
        elif content is not None:
            (tmp_path / name).write_bytes(content)
    trainer = TeacherTrainer(simulated, small_teacher, TeacherFolder(tmp_path), device=CPU, progress_bar=False)
    trainer.fit()
    assert not trainer.reused
    assert (tmp_path / name).read_bytes() == (teacher_folder / name).read_bytes()
    trainer.fit()
    assert trainer.reused


def test_a_members_file_without_its_predictions_is_named(
    simulated: PreparedDataset, small_teacher: TeacherConfig, teacher_folder: Path, tmp_path: Path
) -> None:
    for path in teacher_folder.glob("*.safetensors"):
        (tmp_path / path.name).hardlink_to(path)
    path = TeacherFolder(tmp_path).member("deepfm", 2)
    tensors, about = load_tensors(path)
    num = len(tensors["predictions.test"])
    for damaged in ({}, {"predictions.test": tensors["predictions.test"][1:]}):
        others = {name: tensor for name, tensor in tensors.items() if name != "predictions.test"}
        save_tensors(path, others | damaged, about)
        told = rf"deepfm-fold2\.safetensors: damaged, it has no {num} predictions\.test; remove it to train it again"
        with pytest.raises(ConfigError, match=told):
            taught(simulated, small_teacher, tmp_path)


def test_another_configuration_or_other_data_need_another_folder(
    simulated: PreparedDataset, small_teacher: TeacherConfig, teacher_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"holds a teacher of another configuration \(see its config.yaml\)"):
        taught(simulated, small_teacher.model_copy(update={"seed": 1}), teacher_folder)
    other = with_content_id(flipped(simulated, np.array([0])))
    told = rf"dcn_v2-fold0.safetensors: of a teacher with data_id {simulated.data_id[:12]}, not {other.data_id[:12]}"
    with pytest.raises(ConfigError, match=told):
        taught(other, small_teacher, teacher_folder)


def test_without_a_validation_split_all_members_weigh_the_same(
    simulated: PreparedDataset, small_teacher: TeacherConfig, tmp_path: Path
) -> None:
    rows = simulated.interactions
    split = np.where(rows.split == VALIDATION, UNUSED, rows.split).astype(np.uint8)
    _, report = taught(replace(simulated, interactions=replace(rows, split=split)), small_teacher, tmp_path)
    assert report["weights_by_fold"] == [[0.25] * 4] * 3
    assert set(report["ensemble"]) == {"out_of_fold", "test"}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_feedback_of_one_kind_teaches_nothing(
    simulated: PreparedDataset, small_teacher: TeacherConfig, tmp_path: Path, value: float
) -> None:
    rows = simulated.interactions
    dataset = replace(simulated, interactions=replace(rows, feedback=np.full(len(rows), value, np.float32)))
    num = len(impressions(simulated, TRAIN))
    told = f"the training split has {num if value else 0} positives among {num} impressions, which teaches nothing"
    with pytest.raises(ConfigError, match=told):
        taught(dataset, small_teacher, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()
