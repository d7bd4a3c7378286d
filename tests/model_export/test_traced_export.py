from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from model_export import traced_export
from model_export.calibrate import main as calibrate
from model_export.command import main as export
from model_export.parity import TOLERANCE, ParityError, RealRows
from model_export.traced_export import export_traced
from model_export.traced_parity import check_traced_parity
from offline.precompute import main as precompute
from offline.train import run_training
from ranktower.data.dataset import PreparedDataset
from ranktower.data.encoder import EncodedFeatures
from ranktower.errors import ConfigError
from ranktower.models import ModelConfig, PreRanker
from ranktower.onnx_runtime import onnxruntime
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder, TrainedRun, load_run
from ranktower.training.tensors import side_features

FILES = ["features.json", "item_tower.onnx", "model.json", "scorer.onnx", "user_tower.onnx"]
CHECKS = {"user_tower", "item_tower", "scorer_real", "scorer_random", "scorer_zero", "scorer_huge"}


def names() -> list[str]:
    """Every model of a configuration but RankTower, from the union itself, so that a new one is not forgotten."""
    configs = [get_args(tagged)[0] for tagged in get_args(get_args(ModelConfig)[0])]
    return sorted({config.model_fields["name"].default for config in configs} - {"ranktower"})


@pytest.fixture(scope="module")
def train(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TrainedRun]:
    """``train("lr")``: a run of one epoch, made once."""
    runs: dict[str, TrainedRun] = {}

    def run(name: str) -> TrainedRun:
        if name not in runs:
            content = small_config.model_dump() | {"model": {"name": name}, "max_epochs": 1}
            if name == "arf":
                content["loss"] = {"fine_weight": 0, "coarse_weight": 0}
            folder = RunFolder(tmp_path_factory.mktemp("runs") / name)
            config = TrainConfig.model_validate(content)
            run_training(simulated, config, folder, device=torch.device("cpu"), show_bar=False)
            runs[name] = load_run(folder.path)
        return runs[name]

    return run


@pytest.fixture(scope="module", params=names())
def run(request: pytest.FixtureRequest, train: Callable[[str], TrainedRun]) -> TrainedRun:
    return train(request.param)


@pytest.fixture(scope="module")
def exported(run: TrainedRun, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "export"
    assert export(["--run", str(run.folder.path), "--data", str(simulated_folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def two_tower(train: Callable[[str], TrainedRun]) -> TrainedRun:
    return train("two_tower")


@pytest.fixture(scope="module")
def real(simulated: PreparedDataset) -> RealRows:
    return RealRows(
        side_features(simulated.users.features.take(slice(8))), side_features(simulated.items.features.take(slice(50)))
    )


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def rows_of(path: Path, features: EncodedFeatures) -> dict[str, Any]:
    """What a tower's graph gives, by name."""
    graph = session(path)
    feed = {"codes": features.codes.astype(np.int64)}
    for name, values in features.bags.items():
        feed |= {f"{name}_values": values.astype(np.int64)}
        feed |= {f"{name}_length": features.lengths[name].astype(np.int64)}
    given = [output.name for output in graph.get_outputs()]
    return dict(zip(given, graph.run(given, feed), strict=True))


def test_writes_graphs_encoder_and_description(exported: Path, run: TrainedRun) -> None:
    """And no ladder, which the command makes of RankTower alone."""
    assert sorted(path.name for path in exported.iterdir()) == FILES
    description = json.loads((exported / "model.json").read_text())
    assert description["name"] == run.config.model.name
    assert description["config"] == run.config.model_dump(mode="json")
    assert (description["run_id"], description["data_id"]) == (run.run_id, run.data_id)
    assert set(description["parity"]) == CHECKS
    assert all(0 <= figure <= TOLERANCE for figure in description["parity"].values())


@pytest.mark.parametrize("num_candidates", [1, 3, 300])
def test_from_features_to_scores_as_in_torch(
    num_candidates: int, exported: Path, run: TrainedRun, simulated: PreparedDataset
) -> None:
    """The graphs alone, one behind the other, for users one at a time."""
    items = simulated.items.features.take(slice(num_candidates))
    item_rows = rows_of(exported / "item_tower.onnx", items)
    scorer = session(exported / "scorer.onnx")
    for user in range(5):
        features = simulated.users.features.take(slice(user, user + 1))
        feed = rows_of(exported / "user_tower.onnx", features) | item_rows
        (scores,) = scorer.run(["scores"], feed)
        with torch.no_grad():
            encoded = run.model.encode_items(side_features(items))
            users = run.model.encode_users(side_features(features))
            expected = run.model.score_pairs(users, tuple(array[None] for array in encoded))[0].numpy()
        assert scores.shape == (num_candidates,)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_the_scorer_says_what_it_takes(exported: Path) -> None:
    """One user and any number of candidates, of the shapes that model.json gives: all a caller needs to feed it."""
    rows = json.loads((exported / "model.json").read_text())["rows"]
    inputs = {put.name: put.shape for put in session(exported / "scorer.onnx").get_inputs()}
    expected = {f"user_{place}": [1, *shape] for place, shape in enumerate(rows["user"])}
    expected |= {f"item_{place}": ["candidates", *shape] for place, shape in enumerate(rows["item"])}
    assert inputs == expected


def test_a_graph_holds_no_weight_of_the_other_parts(exported: Path) -> None:
    """A tower's file has its own side's tables only, and the scorer, which is given rows, has none."""
    towers = {"user_tower.", "item_tower."}
    for name, own in (
        ("user_tower.onnx", {"user_tower."}),
        ("item_tower.onnx", {"item_tower."}),
        ("scorer.onnx", set()),
    ):
        weights = [tensor.name for tensor in onnx.load(exported / name).graph.initializer]
        assert {tower for tower in towers for weight in weights if tower in weight} == own


def test_the_same_run_is_exported_once_and_another_takes_its_place(
    two_tower: TrainedRun,
    train: Callable[[str], TrainedRun],
    trained_run: Path,
    simulated_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From Two-Tower to LR to RankTower and back: no file of the one before stays."""

    def export_run(folder: Path) -> str:
        export(["--run", str(folder), "--data", str(simulated_folder), "--out", str(tmp_path / "out"), "--no-ladder"])
        return capsys.readouterr().out

    assert "torch and ONNX differ by at most" in export_run(two_tower.folder.path)
    assert "of this very run already" in export_run(two_tower.folder.path)
    assert "torch and ONNX differ by at most" in export_run(train("lr").folder.path)
    export_run(trained_run)
    assert "pooled.float16.onnx" in {path.name for path in (tmp_path / "out").iterdir()}
    export_run(two_tower.folder.path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_no_release_is_made_of_another_model(
    two_tower: TrainedRun, trained_run: Path, simulated_folder: Path, real: RealRows, tmp_path: Path
) -> None:
    """Neither of its run, nor of its export beside a run of RankTower."""
    out = tmp_path / "out"
    origin = {"run_id": two_tower.run_id, "config": two_tower.config.model_dump(mode="json")}
    export_traced(two_tower.model, two_tower.encoder, out, real=real, origin=origin)
    paths = ["--export", str(out), "--data", str(simulated_folder)]
    theirs, ours = ["--run", str(two_tower.folder.path), *paths], ["--run", str(trained_run), *paths]
    with pytest.raises(ConfigError, match=r"trained model\.name 'two_tower'; a release holds 'ranktower' alone"):
        calibrate(theirs)
    for paths in (theirs, ours):
        with pytest.raises(ConfigError, match=r"out: of model\.name 'two_tower'; a release holds 'ranktower' alone"):
            precompute([*paths, "--registry", str(tmp_path / "registry")])
    with pytest.raises(ConfigError, match="out: no export of run"):
        calibrate(ours)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("written", ["write_pair_scorer", "write_encoder"])
def test_a_graph_of_another_model_is_refused_and_leaves_nothing_behind(
    written: str, two_tower: TrainedRun, real: RealRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph is written with the temperature, or with one bias of a tower, a hundredth off."""
    weight = (
        two_tower.model.log_tau if written == "write_pair_scorer" else two_tower.model.item_tower.network.layers[0].bias
    )
    write: Callable[..., None] = getattr(traced_export, written)

    def wrong(model: PreRanker, *arguments: Any, **options: Any) -> None:
        with torch.no_grad():
            weight.add_(0.01)
            write(model, *arguments, **options)
            weight.sub_(0.01)

    monkeypatch.setattr(traced_export, written, wrong)
    check = {"write_pair_scorer": "scorer_real", "write_encoder": "item_tower"}[written]
    with pytest.raises(ParityError, match=f"parity check '{check}' failed: torch and ONNX differ by"):
        export_traced(two_tower.model, two_tower.encoder, tmp_path / "out", real=real, origin={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("graph", "check"), [("user_tower", "user_tower"), ("item_tower", "item_tower"), ("scorer", "scorer_real")]
)
def test_not_a_number_fails_parity(
    graph: str, check: str, two_tower: TrainedRun, real: RealRows, tmp_path: Path
) -> None:
    """The graph's first output goes through the logarithm of what is below zero."""
    out = tmp_path / "out"
    origin = {"config": two_tower.config.model_dump(mode="json")}
    export_traced(two_tower.model, two_tower.encoder, out, real=real, origin=origin)
    broken = onnx.load(out / f"{graph}.onnx")
    output = broken.graph.output[0].name
    for node in broken.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
    broken.graph.node.append(onnx.helper.make_node("Abs", ["right"], ["size"]))
    broken.graph.node.append(onnx.helper.make_node("Neg", ["size"], ["negative"]))
    broken.graph.node.append(onnx.helper.make_node("Log", ["negative"], [output]))
    onnx.save(broken, out / f"{graph}.onnx")
    with pytest.raises(ParityError, match=f"'{check}' failed: torch and ONNX differ by nan"):
        check_traced_parity(two_tower.model, out, real)
