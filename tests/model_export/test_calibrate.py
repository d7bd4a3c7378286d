"""``ranktower calibrate`` on a model that was trained on the simulator."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_export.calibrate import CalibrateOptions, TooFewUsersError, draw_candidates, main
from model_export.command import main as export
from ranktower.data.dataset import TRAIN, VALIDATION, PreparedDataset, with_content_id
from ranktower.errors import ConfigError
from ranktower.ladder import Ladder
from ranktower.training.checkpoint import load_tensors, save_tensors
from ranktower.training.evaluation import ModelScorer
from ranktower.training.run import load_run


@pytest.fixture(scope="module")
def exported(trained_run: Path, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "export"
    inputs = ["--run", str(trained_run), "--data", str(simulated_folder)]
    assert export([*inputs, "--out", str(out), "--no-ladder"]) == 0
    assert not (out / "ladder.json").exists()
    return out


@pytest.fixture(scope="module")
def inputs(trained_run: Path, simulated_folder: Path, exported: Path) -> list[str]:
    return ["--run", str(trained_run), "--data", str(simulated_folder), "--export", str(exported)]


@pytest.fixture(scope="module")
def ladder(inputs: list[str], exported: Path) -> Ladder:
    assert main([*inputs, "--candidates", "150", "--k", "20", "--shares", "0.5", "0.2"]) == 0
    return Ladder.model_validate_json((exported / "ladder.json").read_bytes())


def test_the_levels_are_in_the_order_of_their_quality(ladder: Ladder) -> None:
    assert [(one.level, one.share) for one in ladder.levels] == [
        ("full", 1.0), ("full_best", 0.5), ("full_best", 0.2), ("maxsim", 0.0), ("pooled", 0.0)
    ]  # fmt: skip
    overlaps = [one.recall_to_full for one in ladder.levels]
    assert overlaps == sorted(overlaps, reverse=True)
    assert overlaps[0] == 1.0
    assert overlaps[-1] > 20 / 150  # better than chance
    assert all(0 < one.ndcg <= 1 for one in ladder.levels)


def test_the_file_says_what_it_was_measured_of(ladder: Ladder, trained_run: Path, simulated: PreparedDataset) -> None:
    of = dict(ladder.of)
    assert len(of.pop("graphs")) == 64
    assert of == {
        "run_id": load_run(trained_run).run_id, "data_id": simulated.data_id,
        "max_users": 500, "num_candidates": 150, "k": 20, "shares": [0.5, 0.2],
    }  # fmt: skip


def test_full_scoring_has_the_models_own_quality(ladder: Ladder, trained_run: Path, simulated: PreparedDataset) -> None:
    """NDCG and Recall of the measured half, by torch in float32 and counted by hand."""
    run = load_run(trained_run)
    scorer = ModelScorer.encode(run.model, simulated)
    drawn = draw_candidates(run, simulated, CalibrateOptions(num_candidates=150))[1::2]
    assert ladder.levels[0].num_users == len(drawn)
    found = []
    for one in drawn:
        best = np.argsort(-scorer(one.user_row, one.item_rows))[:20]
        found.append((one.labels[best] > 0).sum() / (one.labels > 0).sum())
    assert ladder.levels[0].recall == pytest.approx(np.mean(found), abs=0.01)  # float16 may swap two neighbours


def test_candidates_are_retrieved_ones_and_impressions_and_nothing_that_training_saw(
    trained_run: Path, simulated: PreparedDataset
) -> None:
    interactions = simulated.interactions
    drawn = draw_candidates(load_run(trained_run), simulated, CalibrateOptions(max_users=30, num_candidates=40))
    assert len({one.user_row for one in drawn}) == len(drawn) == 30
    for one in drawn:
        own = interactions.take(interactions.user_row == one.user_row)
        shown = own.take((own.split == VALIDATION) & (own.stage == 0))
        assert set(shown.item_row) <= set(one.item_rows)
        assert not set(own.item_row[own.split == TRAIN]) & set(one.item_rows)
        assert 40 <= len(one.item_rows) <= 40 + len(shown)
        assert dict(zip(one.item_rows, one.labels, strict=True)) == dict.fromkeys(one.item_rows, 0.0) | dict(
            zip(shown.item_row, shown.feedback, strict=True)
        )
        assert one.labels.max() > 0


def test_the_same_again_is_read_and_other_options_are_measured(
    ladder: Ladder, inputs: list[str], exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported / "ladder.json"
    before = path.stat()
    assert main([*inputs, "--candidates", "150", "--k", "20", "--shares", "0.5", "0.2"]) == 0
    assert path.stat() == before
    told = capsys.readouterr().out
    assert told.split()[told.split().index("full_best") + 2] == f"{ladder.levels[1].ndcg:.4f}"
    assert f"calibrate: reused from {path}" in told
    assert main([*inputs, "--candidates", "150", "--k", "10", "--shares"]) == 0
    assert "calibrate: written to" in capsys.readouterr().out
    assert [one.level for one in Ladder.model_validate_json(path.read_bytes()).levels] == ["full", "maxsim", "pooled"]
    path.write_text("{")
    assert main([*inputs, "--candidates", "150", "--k", "20", "--shares", "0.5", "0.2"]) == 0
    assert Ladder.model_validate_json(path.read_bytes()) == ladder


def test_an_export_of_another_run_is_refused(
    inputs: list[str], exported: Path, trained_run: Path, tmp_path: Path
) -> None:
    run_id = load_run(trained_run).run_id
    with pytest.raises(ConfigError, match=f"nothing: no export of run {run_id}; run 'ranktower export'"):
        main([*inputs, "--export", str(tmp_path / "nothing")])
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    content = json.loads((other / "model.json").read_text()) | {"run_id": "0" * 12}
    (other / "model.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"other: no export of run {run_id}"):
        main([*inputs, "--export", str(other)])


def test_where_nothing_can_be_measured_the_export_has_no_ladder(
    trained_run: Path, simulated: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a log of a few lines: none of validation's impressions has feedback."""
    interactions = simulated.interactions
    feedback = np.where(interactions.split == VALIDATION, 0, interactions.feedback).astype(np.float32)
    bare = replace(simulated, interactions=replace(interactions, feedback=feedback))
    with pytest.raises(TooFewUsersError, match="validation has 0 users with a positive, a ladder needs 2"):
        draw_candidates(load_run(trained_run), bare, CalibrateOptions())
    bare = with_content_id(bare)
    bare.save(tmp_path / "data")
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    tensors, about = load_tensors(run / "model.safetensors")
    save_tensors(run / "model.safetensors", tensors, about | {"data_id": bare.data_id})
    assert export(["--run", str(run), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "export")]) == 0
    assert "calibrate: no ladder, validation has 0 users with a positive, a ladder needs 2" in capsys.readouterr().out
    assert not (tmp_path / "export" / "ladder.json").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--max-users", "1"], "--max-users must be at least 2, got 1"),
        (["--candidates", "1"], "--candidates must be at least 2, got 1"),
        (["--k", "0"], "--k must be at least 1, got 0"),
        (["--shares", "0.1", "0.5"], "--shares must fall and lie between 0 and 1, got 0.1 0.5"),
        (["--shares", "1"], "--shares must fall and lie between 0 and 1, got 1.0"),
        (["--shares", "0.5", "0"], "--shares must fall and lie between 0 and 1, got 0.5 0.0"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: list[str], text: str, inputs: list[str]) -> None:
    with pytest.raises(ConfigError, match=text):
        main([*inputs, *options])
