from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offline.train import run_training
from ranktower.data.dataset import VALIDATION, PreparedDataset
from ranktower.data.sampling import FullStageSampler, ListBatch, SamplingOptions
from ranktower.errors import ConfigError
from ranktower.models import EncodedLists, PreRanker, RankTower
from ranktower.training.checkpoint import Progress, load_tensors
from ranktower.training.config import OptimizerConfig, TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate, popularity_scorer
from ranktower.training.loop import DeviceFeatures, Retrieved, Trainer, encode_lists
from ranktower.training.run import RunFolder, load_run, read_metrics
from ranktower.training.tensors import field_sizes, side_features

CPU = torch.device("cpu")


def scores_of(model: PreRanker, features: DeviceFeatures, batch: ListBatch) -> NDArray[np.float32]:
    lists = encode_lists(model, features, batch)
    return model.score_pairs(lists.users, lists.item_lists()).numpy()


def test_a_run_leaves_model_metrics_and_curve(trained_run: Path, small_config: TrainConfig) -> None:
    folder = RunFolder(trained_run)
    metrics = read_metrics(folder)
    assert metrics["steps"] == metrics["losses"][-1]["step"]
    assert all(row["distillation"] > 0 and row["fine"] > 0 and row["coarse"] > 0 for row in metrics["losses"])
    assert max(row["ndcg"] for row in metrics["validations"]) == pytest.approx(
        next(row["ndcg"] for row in metrics["validations"] if row["step"] == metrics["best_step"])
    )
    assert folder.curve.read_bytes().startswith(b"\x89PNG")
    assert TrainConfig.load(folder.config) == small_config


def test_training_learns_more_than_popularity_knows(simulated: PreparedDataset, trained_run: Path) -> None:
    run = load_run(trained_run)
    options = EvaluationOptions(k=20)
    learned = evaluate(ModelScorer.encode(run.model, simulated), simulated, options)
    torch.manual_seed(0)
    sizes = field_sizes(simulated.encoder.user), field_sizes(simulated.encoder.item)
    untrained = evaluate(ModelScorer.encode(RankTower(run.config.model, *sizes).eval(), simulated), simulated, options)
    popular = evaluate(popularity_scorer(simulated), simulated, options)
    assert learned.ndcg > 1.5 * untrained.ndcg
    assert learned.ndcg > 0.7 * popular.ndcg  # a few hundred steps on a tiny log: not far below, often above


def test_score_lists_equals_scoring_each_list_alone(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    torch.manual_seed(1)
    model = RankTower(small_config.model, field_sizes(simulated.encoder.user), field_sizes(simulated.encoder.item))
    features = DeviceFeatures(side_features(simulated.users.features), side_features(simulated.items.features))
    batch = next(FullStageSampler(simulated, small_config.sampling, None).epoch(0, 8))
    with torch.no_grad():
        together = scores_of(model, features, batch)
    scorer = ModelScorer.encode(model, simulated)
    for index, user in enumerate(batch.user_rows):
        own = batch.mask[index]
        np.testing.assert_allclose(
            together[index, own], scorer(int(user), batch.item_rows[index, own]), atol=1e-4, rtol=0
        )


def test_what_stands_in_padding_changes_nothing(simulated: PreparedDataset, small_config: TrainConfig) -> None:
    torch.manual_seed(1)
    model = RankTower(small_config.model, field_sizes(simulated.encoder.user), field_sizes(simulated.encoder.item))
    features = DeviceFeatures(side_features(simulated.users.features), side_features(simulated.items.features))
    batch = next(FullStageSampler(simulated, SamplingOptions(max_impressions=100), None).epoch(0, 8))
    padding = ~batch.mask
    assert padding.any()
    with torch.no_grad():
        before = scores_of(model, features, batch)[batch.mask]
        batch.item_rows[padding] = -1
        after = scores_of(model, features, batch)[batch.mask]
    np.testing.assert_array_equal(before, after)


def test_the_same_seed_gives_the_same_model(
    simulated: PreparedDataset, small_config: TrainConfig, trained_run: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "again")
    run_training(simulated, small_config, folder, device=CPU, show_bar=False)
    assert folder.model.read_bytes() == RunFolder(trained_run).model.read_bytes()


def test_a_killed_run_resumes_to_the_same_model(
    simulated_folder: Path,
    small_config: TrainConfig,
    trained_run: Path,
    tmp_path: Path,
    kill_when: Callable[..., None],
) -> None:
    """SIGKILL a real ``ranktower train`` somewhere after its first checkpoint, then run the same command again."""
    small_config.dump(tmp_path / "config.yaml")
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, "-m", "ranktower.cli", "train", "--quiet", "--data", str(simulated_folder)]
    command += ["--out", str(run.path), "--config", str(tmp_path / "config.yaml")]
    kill_when(command, run.checkpoint.exists)
    assert not run.model.exists(), "the run ended before it could be killed"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours, reference = load_tensors(run.model)[0], load_tensors(RunFolder(trained_run).model)[0]
    for name, tensor in reference.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, msg=name)


def test_early_stopping_counts_validations_without_a_better_ndcg(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    impatient = small_config.model_copy(
        update={
            "learning_rate": 1e-12,  # nothing improves
            "max_epochs": 50,
            "validation": small_config.validation.model_copy(update={"patience": 2, "every_steps": 3}),
        }
    )
    folder = RunFolder(tmp_path)
    progress = Trainer(simulated, impatient, folder, retrieved=None, device=CPU, progress_bar=False).fit()
    assert progress.stale == 2
    assert len(progress.validations) == 3
    assert progress.step == 9
    assert progress.best_step == 3


def test_without_a_positive_in_validation_every_epoch_is_trained_and_the_last_model_kept(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    """A figure of 0 over no user would stop the run early and keep the model of its first validation."""
    rows = simulated.interactions
    nobody = replace(rows, feedback=np.where(rows.split == VALIDATION, 0, rows.feedback).astype(np.float32))
    impatient = small_config.validation.model_copy(update={"patience": 1, "every_steps": 2})
    config = small_config.model_copy(update={"validation": impatient})
    folder = RunFolder(tmp_path)
    dataset = replace(simulated, interactions=nobody)
    trainer = Trainer(dataset, config, folder, retrieved=None, device=CPU, progress_bar=False)
    progress = trainer.fit()
    assert progress.step == progress.best_step == config.max_epochs * trainer.sampler.num_batches(config.batch_lists)
    assert progress.validations == []
    for name, tensor in load_tensors(folder.model)[0].items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name


def test_a_loss_that_is_not_finite_ends_the_run(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    config = small_config.model_copy(update={"learning_rate": 1e30})
    trainer = Trainer(simulated, config, RunFolder(tmp_path), retrieved=None, device=CPU, progress_bar=False)
    with pytest.raises(ConfigError, match=r"the loss of step 2 is not finite \(distillation .*learning_rate is 1e\+30"):
        trainer.fit()
    assert not RunFolder(tmp_path).model.exists()


def test_another_configuration_or_other_data_is_refused(
    simulated: PreparedDataset, small_config: TrainConfig, trained_run: Path
) -> None:
    other = small_config.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another configuration"):
        run_training(simulated, other, RunFolder(trained_run), device=CPU, show_bar=False)
    changed = PreparedDataset(**{**vars(simulated), "info": simulated.info | {"data_id": "0" * 64}})
    with pytest.raises(ConfigError, match="holds a run on other data"):
        run_training(changed, small_config, RunFolder(trained_run), device=CPU, show_bar=False)
    with pytest.raises(ConfigError, match="started with data_id"):
        Trainer(changed, small_config, RunFolder(trained_run), retrieved=None, device=CPU, progress_bar=False)


def test_a_damaged_checkpoint_is_named(simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=r"checkpoint\.safetensors: damaged"):
        Trainer(simulated, small_config, RunFolder(tmp_path), retrieved=None, device=CPU, progress_bar=False)


def test_a_warm_start_begins_with_the_retrieval_models_field_embeddings(
    simulated: PreparedDataset, small_config: TrainConfig, trained_run: Path, tmp_path: Path
) -> None:
    model = load_run(trained_run).retrieval_model()
    retrieved = Retrieved(model, np.zeros((len(simulated.users), 1), dtype=np.int32))
    config = small_config.model_copy(update={"warm_start": True})
    warm = Trainer(simulated, config, RunFolder(tmp_path), retrieved=retrieved, device=CPU, progress_bar=False)
    cold = Trainer(simulated, small_config, RunFolder(tmp_path), retrieved=retrieved, device=CPU, progress_bar=False)
    for side in ("user_tower", "item_tower"):
        expected = getattr(model, side).embedding.state_dict()
        assert expected
        for name, tensor in expected.items():
            assert torch.equal(getattr(warm.model, side).embedding.state_dict()[name], tensor)
            assert not torch.equal(getattr(cold.model, side).embedding.state_dict()[name], tensor)


def test_a_short_epoch_is_validated_once_at_its_end(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    """Also where the steps between validations fall into the middle of one."""
    validation = small_config.validation.model_copy(update={"every_steps": 15})
    config = small_config.model_copy(update={"validation": validation})
    trainer = Trainer(simulated, config, RunFolder(tmp_path), retrieved=None, device=CPU, progress_bar=False)
    per_epoch = trainer.sampler.num_batches(config.batch_lists)
    assert per_epoch < 15 < 3 * per_epoch
    assert [row["step"] for row in trainer.fit().validations] == [per_epoch, 2 * per_epoch, 3 * per_epoch]


def test_a_stopped_run_with_dropout_and_a_schedule_goes_on_to_the_same_model(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step > small_config.checkpoint_every_steps:
            raise StoppedError

    config = small_config.model_copy(
        update={
            "model": small_config.model.model_copy(update={"dropout": 0.4}),
            "optimizer": OptimizerConfig(schedule="cosine", warmup_steps=5),
        }
    )
    for name, stopped in (("whole", False), ("stopped", True)):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        if stopped:
            with pytest.raises(StoppedError):
                Trainer(
                    simulated, config, folder, retrieved=None, device=CPU, progress_bar=False, on_validation=stop
                ).fit()
        Trainer(simulated, config, folder, retrieved=None, device=CPU, progress_bar=False).fit()
    whole, resumed = (load_tensors(RunFolder(tmp_path / name).model)[0] for name in ("whole", "stopped"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_no_two_steps_and_no_two_seeds_draw_the_same(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, ...]] = []

    def encode(*arguments: Any, **options: Any) -> EncodedLists:
        drawn.append(tuple(torch.rand(4).tolist()))
        return encode_lists(*arguments, **options)

    monkeypatch.setattr("ranktower.training.loop.encode_lists", encode)
    for seed in (0, 1, 1 << 32):
        config = small_config.model_copy(update={"seed": seed, "max_epochs": 1})
        (tmp_path / str(seed)).mkdir()
        folder = RunFolder(tmp_path / str(seed))
        Trainer(simulated, config, folder, retrieved=None, device=CPU, progress_bar=False).fit()
    assert len(drawn) > 3 * 5
    assert len(set(drawn)) == len(drawn)
