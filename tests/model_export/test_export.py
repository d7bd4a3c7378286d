from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_export.command import main
from model_export.export import export_model
from model_export.graphs import write_tower
from model_export.parity import TOLERANCE, ParityError, RealRows, check_parity
from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.codec import ARRAYS, ROW_DTYPES, ROW_KINDS, RowDtype, RowKind
from ranktower.errors import ConfigError, DataError
from ranktower.models import RankTower, RankTowerConfig
from ranktower.onnx_runtime import onnxruntime
from ranktower.training.run import TrainedRun, load_run
from ranktower.training.tensors import side_features

SCORERS: dict[tuple[RowKind, RowDtype], str] = {
    ("projected", "float16"): "scorer.float16.onnx",
    ("projected", "float32"): "scorer.float32.onnx",
    ("embedding", "float16"): "embedding_scorer.float16.onnx",
    ("embedding", "float32"): "embedding_scorer.float32.onnx",
}
LEVELS = [f"{level}.{dtype}.onnx" for level in ("maxsim", "pooled") for dtype in ("float16", "float32")]
FILES = sorted(["features.json", "item_tower.onnx", "model.json", "user_tower.onnx", *SCORERS.values(), *LEVELS])
CHECKS = {"scorer_random", "scorer_real", "scorer_zero", "explanation", "maxsim", "pooled", "user_tower", "item_tower"}
OUTPUTS = {"user": ["user_embedding"], "item": [f"item_{array}" for array in ARRAYS]}


@pytest.fixture(scope="module")
def run(trained_run: Path) -> TrainedRun:
    return load_run(trained_run)


@pytest.fixture(scope="module")
def real(simulated: PreparedDataset) -> RealRows:
    return RealRows(
        side_features(simulated.users.features.take(slice(8))), side_features(simulated.items.features.take(slice(50)))
    )


@pytest.fixture(scope="module")
def exported(trained_run: Path, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "export"
    assert main(["--run", str(trained_run), "--data", str(simulated_folder), "--out", str(out)]) == 0
    return out


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_writes_graphs_encoder_and_description(exported: Path, run: TrainedRun) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted([*FILES, "ladder.json"])
    description = json.loads((exported / "model.json").read_text())
    assert description["run_id"] == run.run_id
    assert description["data_id"] == run.data_id
    assert description["tau"] == pytest.approx(run.model.similarity.tau.item())
    assert description["shape"] == {"num_user_heads": 2, "num_item_heads": 3, "width": 16, "attention_width": 8}
    assert set(description["parity"]) == CHECKS
    assert all(0 <= figure <= TOLERANCE for figure in description["parity"].values())


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("kind", ROW_KINDS)
def test_each_scorer_takes_any_number_of_stored_rows(
    kind: RowKind, dtype: RowDtype, exported: Path, run: TrainedRun
) -> None:
    """The trained model on random rows that are laid out without the codec: a tag, then numbers."""
    item_values = 3 * 16 + (4 * 3 * 8 if kind == "projected" else 0)
    graph = session(exported / SCORERS[kind, dtype])
    tag = 8 // np.dtype(dtype).itemsize
    network = run.model.cross_attention
    for num_candidates in (1, 2, 3, 64, 10_000):
        random = np.random.default_rng(num_candidates)
        user = random.standard_normal((1, tag + 2 * 16)).astype(dtype)
        items = random.standard_normal((num_candidates, tag + item_values)).astype(dtype)
        scores = graph.run(["scores"], {"user_rows": user, "item_rows": items})[0]
        values = torch.from_numpy(items[:, tag:].astype(np.float32))
        embedding = values[:, :48].reshape(-1, 3, 16)
        projections = (part.reshape(-1, 3, 8) for part in values[:, 48:].split(24, dim=1))
        with torch.no_grad():
            users = network.project_users(torch.from_numpy(user[:, tag:].astype(np.float32)).reshape(1, 2, 16))
            rows = (embedding, *projections) if kind == "projected" else network.project_items(embedding)
            expected = run.model.score_pairs(users, tuple(array[None] for array in rows))[0].numpy()
        assert scores.shape == (num_candidates,)
        np.testing.assert_allclose(scores, expected, atol=1e-5 / run.model.similarity.tau.item(), rtol=0)


def test_the_towers_give_torchs_rows_for_one_row_and_for_many(
    exported: Path, run: TrainedRun, simulated: PreparedDataset
) -> None:
    for side, rows in (("user", simulated.users), ("item", simulated.items)):
        graph = session(exported / f"{side}_tower.onnx")
        for count in (1, 37):
            part = rows.features.take(slice(count))
            feed = {"codes": part.codes.astype(np.int64)}
            for name, values in part.bags.items():
                feed |= {f"{name}_values": values.astype(np.int64)}
                feed |= {f"{name}_length": part.lengths[name].astype(np.int64)}
            # A user's row holds no projections, so its tower computes none.
            assert [output.name for output in graph.get_outputs()] == OUTPUTS[side]
            outputs = graph.run(OUTPUTS[side], feed)
            with torch.no_grad():
                encode = run.model.encode_users if side == "user" else run.model.encode_items
                expected = encode(side_features(part))
            for output, array in zip(outputs, expected[: len(outputs)], strict=True):
                np.testing.assert_allclose(output, array.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrong_one", SCORERS, ids="-".join)
def test_an_export_that_fails_parity_leaves_nothing_behind(
    wrong_one: tuple[str, str], run: TrainedRun, real: RealRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph of the four has another temperature than the model."""
    from model_export import export as module

    def wrong_scorer(model: object, path: Path, *, kind: RowKind, dtype: RowDtype) -> None:
        wrong = (kind, dtype) == wrong_one
        with torch.no_grad():
            run.model.similarity.log_tau += 0.01 * wrong
            write_scorer(run.model, path, kind=kind, dtype=dtype)
            run.model.similarity.log_tau -= 0.01 * wrong

    write_scorer = module.write_scorer
    monkeypatch.setattr(module, "write_scorer", wrong_scorer)
    with pytest.raises(ParityError, match=r"parity check 'scorer_random' failed: torch and ONNX differ by"):
        export_model(run.model, run.encoder, tmp_path / "export", real=real, origin={})
    assert list(tmp_path.iterdir()) == []


def copy_of(exported: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((exported / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", SCORERS.values())
def test_not_a_number_fails_parity(name: str, run: TrainedRun, real: RealRows, exported: Path, tmp_path: Path) -> None:
    folder = copy_of(exported, tmp_path / "broken")
    broken = onnx.load(folder / name)
    (output,) = (init for init in broken.graph.initializer if init.name == "i_output")
    output.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 8), np.nan, dtype=np.float32), output.name))
    onnx.save(broken, folder / name)
    with pytest.raises(ParityError, match="'scorer_random' failed: torch and ONNX differ by nan"):
        check_parity(run.model, folder, real)


@pytest.mark.parametrize(("name", "check"), [(name, name.split(".")[0]) for name in LEVELS])
def test_a_level_with_another_temperature_fails_parity(
    name: str, check: str, run: TrainedRun, real: RealRows, exported: Path, tmp_path: Path
) -> None:
    folder = copy_of(exported, tmp_path / "broken")
    broken = onnx.load(folder / name)
    (tau,) = (init for init in broken.graph.initializer if init.name == "tau")
    tau.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tau) * np.float32(1.01), "tau"))
    onnx.save(broken, folder / name)
    with pytest.raises(ParityError, match=f"'{check}' failed: torch and ONNX differ by"):
        check_parity(run.model, folder, real)


@pytest.mark.parametrize("output", ["user_attention", "item_attention", "cosines", "contributions"])
def test_an_explanation_that_is_not_torchs_fails_parity(
    output: str, run: TrainedRun, real: RealRows, exported: Path, tmp_path: Path
) -> None:
    """The graph gives the right scores, and one thousandth less of one output beside them."""
    folder = copy_of(exported, tmp_path / "broken")
    broken = onnx.load(folder / "embedding_scorer.float16.onnx")
    for node in broken.graph.node:
        for names in (node.input, node.output):
            names[:] = ["right" if name == output else name for name in names]
    broken.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.999), "part"))
    broken.graph.node.append(onnx.helper.make_node("Mul", ["right", "part"], [output]))
    onnx.save(broken, folder / "embedding_scorer.float16.onnx")
    with pytest.raises(ParityError, match="'explanation' failed: torch and ONNX differ by"):
        check_parity(run.model, folder, real)


def test_not_a_number_in_one_array_of_a_tower_fails_parity(
    run: TrainedRun, real: RealRows, exported: Path, tmp_path: Path
) -> None:
    """The logarithm of a negative number, in the last of the five arrays alone."""
    folder = copy_of(exported, tmp_path / "broken")
    broken = onnx.load(folder / "item_tower.onnx")
    for node in broken.graph.node:
        node.output[:] = ["right" if name == "item_gate" else name for name in node.output]
    broken.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["negative"]))
    broken.graph.node.append(onnx.helper.make_node("Log", ["negative"], ["item_gate"]))
    onnx.save(broken, folder / "item_tower.onnx")
    with pytest.raises(ParityError, match="'item_tower' failed: torch and ONNX differ by nan"):
        check_parity(run.model, folder, real)


def test_an_earlier_export_is_replaced_and_a_foreign_folder_is_not(
    run: TrainedRun, real: RealRows, exported: Path, tmp_path: Path
) -> None:
    out = copy_of(exported, tmp_path / "export")
    for leftover in ("ladder.json", ".ladder.json.7.part"):
        (out / leftover).write_text("{}")
    (out / "model.json").write_text("{}")
    export_model(run.model, run.encoder, out, real=real, origin={"run_id": "again"})
    assert json.loads((out / "model.json").read_text())["run_id"] == "again"
    assert sorted(path.name for path in out.iterdir()) == FILES
    # A model.json of another program's beside it does not make the thesis part of an export.
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for _ in range(2):
        with pytest.raises(DataError, match=r"foreign: will not replace this folder: it also holds 'thesis\.tex'"):
            export_model(run.model, run.encoder, foreign, real=real, origin={})
        assert (foreign / "thesis.tex").read_text() == "mine"
        (foreign / "model.json").write_text("{}")
    with pytest.raises(DataError, match="is a file, not a folder"):
        export_model(run.model, run.encoder, foreign / "thesis.tex", real=real, origin={})


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no finished training run, config\.yaml is missing"):
        main(["--run", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("bags", [{}, {"tags": 5}, {"tags": 5, "genres": 3}])
def test_a_tower_of_any_number_of_multi_valued_fields(bags: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = FieldSizes(single={"age": 4}, bags=bags)
    model = RankTower(RankTowerConfig(width=8, attention_width=8, hidden=(8,)), sizes, sizes).eval()
    write_tower(model, "user", sizes, tmp_path / "tower.onnx", bag_slots=dict.fromkeys(bags, 3))
    codes, values = torch.tensor([[3], [0]]), torch.tensor([[1, 2, 0], [1, 1, 2]])
    lengths = torch.tensor([2, 0])
    feed = {"codes": codes.numpy()}
    for name in bags:
        feed |= {f"{name}_values": values.numpy(), f"{name}_length": lengths.numpy()}
    (output,) = session(tmp_path / "tower.onnx").run(["user_embedding"], feed)
    features = SideFeatures(codes, (values,) * len(bags), (lengths,) * len(bags))
    with torch.no_grad():
        np.testing.assert_allclose(output, model.encode_users(features).embedding.numpy(), atol=1e-6, rtol=0)
