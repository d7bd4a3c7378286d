from __future__ import annotations

from pathlib import Path

import pytest

from ranktower.errors import ConfigError
from ranktower.training.config import TrainConfig


def test_the_defaults_are_the_papers_protocol() -> None:
    config = TrainConfig()
    assert (config.learning_rate, config.batch_lists) == (1e-3, 64)
    assert (config.validation.every_steps, config.validation.k) == (1000, 100)
    assert config.loss.softsort_power == 2


def test_a_dumped_configuration_loads_to_the_same(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"model": {"width": 64}, "loss": {"alpha": 3.0}, "seed": 4})
    config.dump(tmp_path / "config.yaml")
    loaded = TrainConfig.load(tmp_path / "config.yaml")
    assert loaded == config
    assert loaded.digest() == config.digest()
    assert loaded.digest() != TrainConfig().digest()


def test_arf_can_be_trained_by_its_own_objective_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("{model: {name: arf}, loss: {distillation_weight: 0, fine_weight: 0, coarse_weight: 0}}")
    assert TrainConfig.load(path).model.name == "arf"


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert TrainConfig.load(tmp_path / "config.yaml") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat: 1", r"config\.yaml: learning_rat: .*got 1"),
        ("model: {width: 7}", r"config\.yaml: model\.width: .*got 7"),
        ("lr: 0.1", r"config\.yaml: lr: .*got 0\.1"),
        ("model: {name: lr, lr: 3}", r"config\.yaml: model\.lr: .*got 3"),
        ("model: {name: best}", r"config\.yaml: model: .*'best'"),
        ("model: 3", r"config\.yaml: model: .*got 3"),
        ("batch_lists: many", r"config\.yaml: batch_lists: .*got 'many'"),
        ("loss: {gamma: 2}", r"config\.yaml: loss\.gamma: "),
        ("loss: {coarse: best}", r"config\.yaml: loss\.coarse: .*got 'best'"),
        (
            "loss: {distillation_weight: 0, fine_weight: 0, coarse_weight: 0}",
            r"loss: .*'ranktower' .*'fine_weight': 0\.0",
        ),
        ("{model: {name: arf}, loss: {coarse_weight: 0}}", r"loss\.fine_weight: model\.name 'arf' .*got 1\.0"),
        ("{model: {name: arf}, loss: {fine_weight: 0}}", r"loss\.coarse_weight: model\.name 'arf' .*got 1\.0"),
        ("loss: {alpha: -1}", r"config\.yaml: am_rankmax alpha must not be negative, got -1\.0"),
        ("model: {hidden: [64, -3]}", r"config\.yaml: model\.hidden\.1: .*got -3"),
        ("retrieval: {model: {hidden: [0]}}", r"config\.yaml: retrieval\.model\.hidden\.0: .*got 0"),
        ("learning_rate: .inf", r"config\.yaml: learning_rate: .*got inf"),
        ("seed: 9999999999999999999", r"config\.yaml: seed: .*got 9999999999999999999"),
        ("sampling: {num_random: -1}", r"config\.yaml: num_random: must be at least 0, got -1"),
        ("[1, 2]", r"config\.yaml: the file: .*got \[1, 2\]"),
        ("model: {width", r"config\.yaml: not readable as YAML"),
    ],
)
def test_a_wrong_file_names_key_and_value(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        TrainConfig.load(tmp_path / "config.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: there is no such"):
        TrainConfig.load(tmp_path / "absent.yaml")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        TrainConfig.load(tmp_path)
