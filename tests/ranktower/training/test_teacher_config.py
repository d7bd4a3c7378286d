from __future__ import annotations

from pathlib import Path

import pytest

from ranktower.errors import ConfigError
from ranktower.training.teacher_config import TeacherConfig


def test_the_defaults_are_the_four_rankers_and_a_file_keeps_them(tmp_path: Path) -> None:
    config = TeacherConfig()
    assert [member.name for member in config.members] == ["deepfm", "deep_crossing", "dcn_v2", "xdeepint"]
    config.dump(tmp_path / "teacher.yaml")
    assert TeacherConfig.load(tmp_path / "teacher.yaml") == config
    assert TeacherConfig(seed=1).digest() != config.digest()


def test_members_are_told_apart_by_name(tmp_path: Path) -> None:
    path = tmp_path / "teacher.yaml"
    path.write_text("members: [{name: xdeepint, width: 8}, {name: deepfm}]\n")
    assert [member.width for member in TeacherConfig.load(path).members] == [8, 16]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("members: [{name: deepfm}, {name: deepfm, width: 8}]", "members: every ranker at most once, got deepfm, deep"),
        ("members: [{name: wide_and_deep}]", "wide_and_deep"),
        ("members: [{name: deepfm, width: 0}]", r"members\.0\.width: Input should be .*, got 0"),
        ("members: []", r"members: Tuple should have at least 1 item.*, got \[\]"),
        ("num_folds: 1", "num_folds: Input should be greater than or equal to 2, got 1"),
        ("positive_weight: 0", "positive_weight: Input should be greater than 0, got 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "teacher.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"teacher\.yaml: .*{problem}"):
        TeacherConfig.load(path)
