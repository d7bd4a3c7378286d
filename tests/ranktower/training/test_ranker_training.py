from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from ranktower.data.dataset import TRAIN, VALIDATION, PreparedDataset
from ranktower.errors import ConfigError, DivergedError
from ranktower.models.deepfm import DeepFMConfig
from ranktower.models.ranker_choice import build_ranker
from ranktower.training.classification_metrics import auc, log_loss
from ranktower.training.ranker_training import Impressions, PairFeatures, predict, train_ranker
from ranktower.training.teacher_config import TeacherConfig

CPU = torch.device("cpu")
MEMBER = DeepFMConfig(width=4, hidden=(8,))
CONFIG = TeacherConfig(members=(MEMBER,), batch_pairs=128, learning_rate=0.01, max_epochs=30, patience=2)


class Planted:
    """Impressions of the simulated data whose feedback is a coin that each user's segment and each item weighs."""

    def __init__(self, dataset: PreparedDataset) -> None:
        self.features = PairFeatures.of(dataset, CPU)
        rows = dataset.interactions
        segment = dataset.users.features.codes[:, dataset.encoder.user.single_fields.index("segment")]
        logits = np.where((segment[rows.user_row] + rows.item_row) % 2 == 0, 2.0, -2.0)
        feedback = (np.random.default_rng(0).random(len(rows)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        dataset = replace(dataset, interactions=replace(rows, feedback=feedback))
        shown = rows.stage == 0
        self.training, self.validation = (
            Impressions.of(dataset, np.flatnonzero(shown & (rows.split == split)), CPU) for split in (TRAIN, VALIDATION)
        )

    def fit(self, config: TeacherConfig, validation: Impressions | None = None) -> tuple[Any, list[dict[str, float]]]:
        torch.manual_seed(0)
        ranker = build_ranker(MEMBER, self.features.user_sizes, self.features.item_sizes)
        given = self.validation if validation is None else validation
        with tqdm(disable=True) as bar:
            return ranker, train_ranker(ranker, self.features, self.training, given, config, bar)

    def predicted(self, ranker: Any, weight: float = 1.0) -> np.ndarray:
        of = self.validation
        return predict(ranker, self.features, of.user_rows, of.item_rows, positive_weight=weight)


@pytest.fixture(scope="module")
def planted(simulated: PreparedDataset) -> Planted:
    return Planted(simulated)


def test_it_learns_and_is_left_at_its_best_validation(planted: Planted) -> None:
    ranker, validations = planted.fit(CONFIG)
    losses = [row["log_loss"] for row in validations]
    best = min(losses)
    assert len(losses) - 1 - losses.index(best) == CONFIG.patience
    labels = planted.validation.labels.numpy() > 0
    assert log_loss(planted.predicted(ranker), labels) == pytest.approx(best, abs=1e-9)
    found = auc(planted.predicted(ranker), labels)
    assert found is not None
    assert found > 0.65
    assert validations[0]["epochs"] == pytest.approx(0.5, abs=0.1)
    assert validations[1]["epochs"] == 1


def test_without_a_validation_split_every_epoch_is_trained(planted: Planted) -> None:
    nothing = planted.validation.take(torch.arange(0))
    config = CONFIG.model_copy(update={"max_epochs": 2})
    ranker, validations = planted.fit(config, nothing)
    assert validations == []
    further, _ = planted.fit(config.model_copy(update={"max_epochs": 3}), nothing)
    assert not torch.equal(ranker.embedding.weight, further.embedding.weight)


def test_a_weighted_positive_leaves_a_probability(planted: Planted) -> None:
    """Trained with heavy positives, the raw odds are too high by the weight; what is predicted is not."""
    ranker, _ = planted.fit(CONFIG.model_copy(update={"positive_weight": 8.0}))
    rate = float(planted.validation.labels.mean())
    assert planted.predicted(ranker, 8.0).mean() == pytest.approx(rate, abs=0.08)
    raw, mended = planted.predicted(ranker, 1.0), planted.predicted(ranker, 8.0)
    assert raw.mean() > rate + 0.15
    np.testing.assert_allclose(raw / (1 - raw) / 8, mended / (1 - mended), rtol=1e-3)


def test_a_step_minimises_the_weighted_log_loss(planted: Planted) -> None:
    """One step of Adam moves every parameter with a gradient by the learning rate, against the gradient's sign."""
    config = CONFIG.model_copy(update={"max_epochs": 1, "batch_pairs": len(planted.training), "positive_weight": 3.0})
    torch.manual_seed(0)
    before = build_ranker(MEMBER, planted.features.user_sizes, planted.features.item_sizes)
    after, _ = planted.fit(config, planted.validation.take(torch.arange(0)))
    logits = planted.features.logits(before, planted.training.user_rows, planted.training.item_rows)
    p, y = torch.sigmoid(logits), planted.training.labels
    (-(3.0 * y * p.log() + (1 - y) * (1 - p).log())).mean().backward()
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert old.grad is not None, name
        clear = old.grad.abs() > 1e-5  # where Adam's own 1e-8 is small beside the gradient
        torch.testing.assert_close((new - old)[clear].detach(), -0.01 * old.grad.sign()[clear], rtol=5e-3, atol=0)


def test_a_loss_that_is_not_finite_ends_with_the_key_to_turn(planted: Planted) -> None:
    """With a validation split or without."""
    config = CONFIG.model_copy(update={"learning_rate": 1e30})
    for validation in (planted.validation, planted.validation.take(torch.arange(0))):
        with pytest.raises(DivergedError, match=r"DeepFM: the training loss is (nan|inf); lower learning_rate"):
            planted.fit(config, validation)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_logit_that_is_not_finite_is_no_probability(planted: Planted, value: float) -> None:
    """The sigmoid of an infinite one would be 0 or 1, which looks like any other."""
    ranker = build_ranker(MEMBER, planted.features.user_sizes, planted.features.item_sizes)
    torch.nn.init.constant_(ranker.get_parameter("bias"), value)
    with pytest.raises(DivergedError, match="DeepFM: a logit is not finite; lower learning_rate"):
        planted.predicted(ranker)


def test_histories_are_left_out(planted: Planted, simulated: PreparedDataset) -> None:
    """A user's bag of kind history disappears with its sizes; other bags stay."""
    user = simulated.encoder.user
    fields = tuple(replace(field, kind="history") if field.name == "interests" else field for field in user.fields)
    encoder = replace(simulated.encoder, user=replace(user, fields=fields))
    without = PairFeatures.of(replace(simulated, encoder=encoder), CPU)
    assert list(planted.features.user_sizes.bags) == ["interests"]
    assert (dict(without.user_sizes.bags), without.users.bag_values, without.users.bag_lengths) == ({}, (), ())
    assert list(without.item_sizes.bags) == ["tags"]
    assert torch.equal(without.users.codes, planted.features.users.codes)


def test_a_side_of_histories_alone_is_refused(simulated: PreparedDataset) -> None:
    """The teacher would not see who the user is, and give everybody the same."""
    user = simulated.encoder.user
    (interests,) = (field for field in user.fields if field.is_bag)
    bags = (replace(interests, kind="history"), replace(interests, name="exposures", kind="history"))
    encoder = replace(simulated.encoder, user=replace(user, fields=bags))
    told = (
        r"user_features leave the teacher nothing to read, because it leaves out histories \(interests, exposures\); "
        r"add at least \{name: user_id, kind: categorical\}"
    )
    with pytest.raises(ConfigError, match=told):
        PairFeatures.of(replace(simulated, encoder=encoder), CPU)
