"""``ranktower teach`` and ``ranktower train --teacher``, as processes; its parts are tested on their own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from offline.teach import main
from offline.train import main as train
from ranktower.errors import ConfigError
from ranktower.training.config import TrainConfig

CONFIG = """
members:
  - {name: deepfm, width: 4, hidden: [8]}
  - {name: xdeepint, width: 4, num_layers: 1}
num_folds: 2
max_epochs: 2
batch_pairs: 128
"""


@pytest.fixture(name="arguments")
def arguments_fixture(simulated_folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "teacher.yaml").write_text(CONFIG)
    folders = ["--data", str(simulated_folder), "--out", str(tmp_path / "teacher")]
    return [*folders, "--config", str(tmp_path / "teacher.yaml"), "--quiet"]


def test_a_killed_call_goes_on_to_the_same_bytes_and_a_further_one_reuses_them(
    arguments: list[str],
    tmp_path: Path,
    kill_when: Callable[[Sequence[str], Callable[[], bool]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = tmp_path / "whole"
    assert main([*arguments, "--out", str(whole)]) == 0
    teacher = tmp_path / "teacher"
    command = [sys.executable, "-c", "import sys; from offline.teach import main; main(sys.argv[1:])", *arguments]
    kill_when(command, (teacher / "deepfm-fold0.safetensors").is_file)
    assert not (teacher / "teacher.json").is_file()
    first = (teacher / "deepfm-fold0.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (teacher / "deepfm-fold0.safetensors").stat().st_mtime_ns == first
    assert (teacher / "teacher_scores.npy").read_bytes() == (whole / "teacher_scores.npy").read_bytes()
    capsys.readouterr()
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "teach: reused " in told
    report = json.loads((teacher / "teacher.json").read_text())
    for name in ("deepfm", "xdeepint", "ensemble"):
        row = re.search(rf"^  {name} +[01]\.\d{{3}}((?: +0\.\d{{4}}){{6}})$", told, re.MULTILINE)
        assert row is not None, told
        if name == "ensemble":
            expected = [f"{report[name][split][key]:.4f}" for split in report[name] for key in ("auc", "log_loss")]
            assert row[1].split() == expected
    members = {f"{name}-fold{fold}.safetensors" for name in ("deepfm", "xdeepint") for fold in (0, 1)}
    assert {path.name for path in teacher.iterdir()} == members | {"config.yaml", "teacher.json", "teacher_scores.npy"}


def test_train_takes_its_soft_labels_from_the_teacher(
    arguments: list[str],
    simulated_folder: Path,
    small_config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_config.model_copy(update={"max_epochs": 1}).dump(tmp_path / "train.yaml")
    to_train = ["--data", str(simulated_folder), "--config", str(tmp_path / "train.yaml"), "--quiet"]
    to_train += ["--out", str(tmp_path / "run"), "--teacher", str(tmp_path / "teacher")]
    with pytest.raises(ConfigError, match=r"no finished teacher, teacher\.json is missing; run 'ranktower teach'"):
        train(to_train)
    assert main(arguments) == 0
    assert train(to_train) == 0
    assert "best validation NDCG@20" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["teacher_id"] == json.loads((tmp_path / "teacher" / "teacher.json").read_text())["teacher_id"]
