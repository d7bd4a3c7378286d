from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ranktower.blocks import FieldSizes
from ranktower.errors import ConfigError
from ranktower.models import RankTower, RankTowerConfig
from ranktower.training.config import OptimizerConfig, TrainConfig
from ranktower.training.ftrl import FTRLProximal
from ranktower.training.optimizer import build_optimizer, rate_share


@pytest.fixture
def model() -> nn.Module:
    sizes = FieldSizes(single={"id": 9}, bags={})
    return RankTower(RankTowerConfig(), sizes, sizes)


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    """The learning rate of every parameter that is in a group, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", ["adam", "ftrl"])
def test_what_works_on_pairs_has_its_own_rate(name: str, model: nn.Module) -> None:
    config = OptimizerConfig.model_validate({"name": name, "interaction_rate": 0.25})
    found = rates(build_optimizer(model, config, learning_rate=0.02), model)
    assert set(found) == {key for key, _ in model.named_parameters()}
    towers = {key for key in found if key.startswith(("user_tower.", "item_tower."))}
    assert {found[key] for key in towers} == {0.02}
    assert {found[key] for key in set(found) - towers} == {0.005}
    assert {"similarity.log_tau", "cross_attention.user_branch.output.weight"} & towers == set()


def test_adam_without_weight_decay_is_adam() -> None:
    """A gradient of a lone 1 moves a weight by the learning rate, whatever the weight."""
    weight = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(5.0)
    optimizer = build_optimizer(weight, OptimizerConfig(), learning_rate=0.1)
    weight.weight.grad = torch.ones(1, 1)
    optimizer.step()
    assert weight.weight.item() == pytest.approx(4.9)


def test_weight_decay_shrinks_apart_from_the_gradient() -> None:
    """Decoupled: w (1 - lr * decay), then Adam's step of the learning rate."""
    weight = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(5.0)
    optimizer = build_optimizer(weight, OptimizerConfig(weight_decay=0.5), learning_rate=0.1)
    weight.weight.grad = torch.ones(1, 1)
    optimizer.step()
    assert weight.weight.item() == pytest.approx(5 * (1 - 0.1 * 0.5) - 0.1)


def test_only_matrices_decay(model: nn.Module) -> None:
    """Not the biases, the norms' scales, nor the temperature."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.5, interaction_rate=0.25), learning_rate=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.1 if name.startswith(("user_tower.", "item_tower.")) else 0.025
        kept = 1 - rate * 0.5 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)
    assert {"similarity.log_tau", "cross_attention.user_norm.weight"} <= set(before)


def test_ftrl_gets_its_options(model: nn.Module) -> None:
    optimizer = build_optimizer(model, OptimizerConfig(name="ftrl", beta=0.1, l1=0.5, l2=2.0), learning_rate=0.01)
    assert isinstance(optimizer, FTRLProximal)
    assert {(group["lr"], group["l1"], group["l2"], group["beta"]) for group in optimizer.param_groups} == {
        (0.01, 0.5, 2.0, 0.1)
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{name: ftrl, schedule: cosine}", r"optimizer\.schedule: .* 'ftrl' has no such option, got cosine"),
        ("{name: ftrl, weight_decay: 0.1}", r"optimizer\.weight_decay: .* 'ftrl' has no such option, got 0\.1"),
        ("{beta: 0.1}", r"optimizer\.beta: optimizer\.name 'adam' has no such option, got 0\.1"),
        ("{name: ftrl, beta: 0}", r"optimizer\.beta: .*got 0"),
        ("{l1: 0.5}", r"optimizer\.l1: optimizer\.name 'adam' has no such option, got 0\.5"),
        ("{name: adam, l2: 3}", r"optimizer\.l2: optimizer\.name 'adam' has no such option, got 3\.0"),
        ("{name: sgd}", r"optimizer\.name: .*got 'sgd'"),
    ],
)
def test_an_option_of_the_other_optimizer_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"optimizer: {text}")
    with pytest.raises(ConfigError, match=rf"config\.yaml: {expected}"):
        TrainConfig.load(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"name": "lr"}}, "ftrl"),
        ({"model": {"name": "lr"}, "optimizer": {"beta": 0.1}}, "ftrl"),
        ({"model": {"name": "lr"}, "optimizer": OptimizerConfig(interaction_rate=2.0)}, "ftrl"),
        ({"model": {"name": "lr"}, "optimizer": {"name": "adam"}}, "adam"),
        ({"model": {"name": "cold"}, "optimizer": {"weight_decay": 0.1}}, "adam"),
        ({}, "adam"),
    ],
)
def test_lr_is_trained_by_ftrl_unless_another_is_named(content: dict[str, Any], expected: str, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(content)
    config.dump(tmp_path / "config.yaml")
    assert f"name: {expected}\n" in (tmp_path / "config.yaml").read_text().split("optimizer:")[1]
    assert TrainConfig.load(tmp_path / "config.yaml") == config


def test_rates_stay_unless_a_schedule_is_named() -> None:
    assert [rate_share(OptimizerConfig(), step, 10) for step in (1, 5, 10)] == [1.0, 1.0, 1.0]


def test_cosine_begins_at_the_rate_and_ends_near_zero() -> None:
    config = OptimizerConfig(schedule="cosine")
    shares = [rate_share(config, step, 100) for step in range(1, 101)]
    assert shares[0] == 1.0
    assert shares[50] == pytest.approx(0.5)
    assert 0 < shares[-1] < 0.001
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(50.5)


def test_a_warm_up_rises_in_a_straight_line() -> None:
    config = OptimizerConfig(warmup_steps=4)
    assert [rate_share(config, step, 10) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    both = OptimizerConfig(schedule="cosine", warmup_steps=4)
    assert rate_share(both, 3, 8) == pytest.approx(0.75 * rate_share(OptimizerConfig(schedule="cosine"), 3, 8))
