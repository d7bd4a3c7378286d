from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.command import main as export
from offline import precompute, promote, publish, quality, rollback
from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.faiss_index import pooled_vectors
from ranktower.embedding_store.local import LocalTable, read_fallback_user
from ranktower.embedding_store.redis import manifest_key, row_key_prefix
from ranktower.embedding_store.redis_client import RedisOptions, open_sync_client
from ranktower.embedding_store.redis_releases import pointer_key
from ranktower.errors import ConfigError, RankTowerError, ReleaseError
from ranktower.file_lock import file_lock
from ranktower.onnx_runtime import onnxruntime
from ranktower.registry import Registry
from ranktower.release import Manifest, read_manifest
from ranktower.training.evaluation import ModelScorer
from ranktower.training.run import load_run
from ranktower.verification import verify_release

MODEL = "demo"


@pytest.fixture(scope="module")
def exported(trained_run: Path, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "export"
    export(["--run", str(trained_run), "--data", str(simulated_folder), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def inputs(trained_run: Path, simulated_folder: Path, exported: Path) -> list[str]:
    return ["--run", str(trained_run), "--data", str(simulated_folder), "--export", str(exported), "--model", MODEL]


@pytest.fixture(scope="module")
def registry(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    assert precompute.main([*inputs, "--registry", str(root)]) == 0
    return root


@pytest.fixture
def own(registry: Path, tmp_path: Path) -> Path:
    """A copy of the registry, with one precomputed and unpublished release."""
    shutil.copytree(registry, tmp_path / "own")
    return tmp_path / "own"


def staged(root: Path) -> tuple[Path, Manifest]:
    (folder,) = (root / MODEL / ".staging").iterdir()
    return folder, read_manifest(folder)


def test_a_release_in_staging_is_not_published(registry: Path) -> None:
    assert Registry(registry).releases(MODEL) == []
    assert Registry(registry).current(MODEL) is None


def test_the_manifest_says_where_the_release_comes_from(registry: Path, trained_run: Path) -> None:
    _, manifest = staged(registry)
    run = load_run(trained_run)
    assert (manifest.training_run_id, manifest.data_id) == (run.run_id, run.data_id)
    assert manifest.config == json.loads(json.dumps(run.config.model_dump(mode="json")))
    assert manifest.tau == pytest.approx(run.model.similarity.tau.item())
    assert manifest.fallback_user
    assert manifest.offline_metrics["fallback_user"]["ndcg"] > 0


def stored_arrays(folder: Path, manifest: Manifest, side: Side, ids: list[str]) -> list[torch.Tensor]:
    """What the rows of a table hold, in float32."""
    layout = manifest.layout(side)
    rows = LocalTable(folder / f"{side}s", layout).fetch(ids)
    assert rows.present.all()
    return [torch.from_numpy(array) for array in layout.decode(rows.raw).values()]


def test_golden_scores_are_torchs_on_the_stored_rows(registry: Path, trained_run: Path) -> None:
    folder, manifest = staged(registry)
    model = load_run(trained_run).model
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        assert sorted(golden.files) == ["embedding_scores", "item_ids", "scores", "scores_fp32", "user_ids"]
        users, items = golden["user_ids"].tolist(), golden["item_ids"].tolist()
        scores, from_redis, exact = golden["scores"], golden["embedding_scores"], golden["scores_fp32"]
    assert len(scores) == len(from_redis) == 16 * 20
    user_arrays, item_arrays = (
        stored_arrays(folder, manifest, "user", users),
        stored_arrays(folder, manifest, "item", items),
    )
    assert (len(user_arrays), len(item_arrays)) == (1, 5)
    network = model.cross_attention
    with torch.no_grad():
        user_rows = network.project_users(*user_arrays)
        for expected, item_rows in ((scores, item_arrays), (from_redis, network.project_items(item_arrays[0]))):
            ours = model.score_pairs(user_rows, tuple(array[:, None] for array in item_rows))[:, 0].numpy()
            np.testing.assert_allclose(ours, expected, atol=1e-4)
    # Two roundings, each small: projections rounded for themselves, or computed from rounded embeddings.
    assert 0 < np.abs(scores - from_redis).max() * manifest.tau < 2e-3
    assert 0 < np.abs(scores - exact).max() * manifest.tau == pytest.approx(manifest.parity["stored_rows"], rel=1e-3)


def test_a_reader_without_project_code_finds_the_golden_scores(registry: Path) -> None:
    """docs/formats.md, read with a NumPy and an ONNX Runtime: rows out of the tables, as they are, into the graphs."""
    (folder,) = (registry / MODEL / ".staging").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format_version"], manifest["row_dtype"], manifest["item_rows"]) == (2, "float16", "projected")
    sizes = {"users": 8 + 2 * 2 * 16, "items": 8 + 2 * 3 * (16 + 4 * 8)}  # Hu = 2, Hi = 3, D = 16, A = 8
    rows: dict[str, dict[str, bytes]] = {}
    for side, size in sizes.items():
        content = (folder / side / "rows.bin").read_bytes()
        keys = np.load(folder / side / "ids.npy").tolist()
        ids = [key.decode() if isinstance(key, bytes) else str(key) for key in keys]
        assert len(content) == len(ids) * size
        rows[side] = {one: content[number * size : (number + 1) * size] for number, one in enumerate(ids)}
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        pairs = list(zip(golden["user_ids"].tolist(), golden["item_ids"].tolist(), strict=True))
        expected = {"scorer.onnx": golden["scores"], "embedding_scorer.onnx": golden["embedding_scores"]}
    for name, size in (("scorer.onnx", sizes["items"]), ("embedding_scorer.onnx", 8 + 2 * 3 * 16)):
        graph = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for number, (user, item) in enumerate(pairs):
            user_rows = np.frombuffer(rows["users"][user], dtype="<f2")[None]
            item_rows = np.frombuffer(rows["items"][item][:size], dtype="<f2")[None]
            (score,) = graph.run(["scores"], {"user_rows": user_rows, "item_rows": item_rows})[0]
            assert score == pytest.approx(expected[name][number], abs=1e-5 / manifest["tau"])


def test_the_fallback_user_is_the_mean(registry: Path) -> None:
    folder, manifest = staged(registry)
    raw = read_fallback_user(folder, manifest)
    assert raw is not None
    layout = manifest.layout("user")
    table = LocalTable(folder / "users", layout)
    mean = layout.decode(table.rows_at(np.arange(len(table))))["embedding"].mean(axis=0)
    assert raw.shape == (1, 8 + 2 * 2 * 16)  # the tag, and Hu = 2 embeddings of D = 16 in float16
    # float16 has 11 significant bits.
    np.testing.assert_allclose(layout.decode(raw)["embedding"][0], mean, rtol=2.0**-11, atol=1e-5)


def test_half_a_file_of_a_killed_run_is_not_sealed_in_the_release(own: Path, inputs: list[str]) -> None:
    folder, manifest = staged(own)
    (folder / "manifest.json").unlink()
    for name in (".fallback_user.bin.7.part", ".manifest.json.7.part", ".items.faiss.part"):
        (folder / name).write_bytes(b"half")
    (folder.parent / "notes.txt").write_text("no release")
    assert precompute.main([*inputs, "--registry", str(own)]) == 0
    (folder.parent / "notes.txt").unlink()
    again_in, again = staged(own)
    assert (again_in, again.files.keys()) == (folder, manifest.files.keys())
    assert again == manifest.model_copy(update={"files": again.files})
    assert not list(folder.rglob("*.part"))


def test_one_process_at_a_time_makes_releases_of_a_model(own: Path, inputs: list[str]) -> None:
    """Two at once would both name the release, or write into one folder. The lock is a file's: NFS locks no folder."""
    folder, manifest = staged(own)
    (folder / "manifest.json").unlink()
    command = [sys.executable, "-m", "ranktower.cli", "precompute", *inputs, "--registry", str(own)]
    with file_lock(own / MODEL / ".precompute.lock"):
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert second.stdout.readline() == f"precompute: waits for another one in {own / MODEL}\n"
        assert not (folder / "manifest.json").exists()
    with second:
        assert f"release {manifest.release} of" in second.stdout.read()
    assert second.returncode == 0
    assert staged(own)[0] == folder


def test_publish_promote_and_rollback(own: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--registry", str(own), "--model", MODEL]
    assert publish.main(place) == 0
    assert promote.main(place) == 0
    first = Registry(own).current(MODEL)
    assert first is not None
    with pytest.raises(ReleaseError, match="no release was promoted before"):
        rollback.main(place)
    # Begun within the same second perhaps, and still the later one by name.
    precompute.main([*inputs, "--registry", str(own), "--dtype", "float32"])
    publish.main(place)
    promote.main(place)
    second = Registry(own).current(MODEL)
    assert second is not None
    assert second.release > first.release
    assert rollback.main(place) == 0
    assert f"rollback: {MODEL} serves {first.release}" in capsys.readouterr().out
    assert Registry(own).current(MODEL) == first


def test_item_rows_without_projections_are_another_release(
    registry: Path, inputs: list[str], trained_run: Path, tmp_path: Path
) -> None:
    place = ["--registry", str(tmp_path), "--model", MODEL]
    assert precompute.main([*inputs, "--registry", str(tmp_path), "--item-rows", "embedding"]) == 0
    projected, before = staged(registry)
    assert publish.main(place) == 0
    (release,) = Registry(tmp_path).releases(MODEL)
    folder = Registry(tmp_path).release_dir(MODEL, release)
    manifest = verify_release(folder)
    # Begun at other times; the hash of what they were made from differs too.
    assert release[-8:] != before.release[-8:]
    assert (before.item_rows, manifest.item_rows) == ("projected", "embedding")
    assert manifest.training_run_id == before.training_run_id
    assert manifest.files.keys() == before.files.keys()
    sizes = {name: (part / "items/rows.bin").stat().st_size for name, part in (("short", folder), ("long", projected))}
    assert sizes == {"short": 300 * (8 + 2 * 3 * 16), "long": 300 * (8 + 2 * 3 * (16 + 4 * 8))}
    short, long = (
        np.fromfile(part / "items/rows.bin", dtype=np.uint8).reshape(300, -1)[:, 8:] for part in (folder, projected)
    )
    np.testing.assert_array_equal(short, long[:, : short.shape[1]])  # but for the tag, the beginning of the other's
    with np.load(folder / "golden.npz") as golden, np.load(projected / "golden.npz") as other:
        np.testing.assert_array_equal(golden["scores"], golden["embedding_scores"])
        np.testing.assert_array_equal(golden["embedding_scores"], other["embedding_scores"])
        np.testing.assert_array_equal(golden["scores_fp32"], other["scores_fp32"])
    assert 0 < manifest.parity["stored_rows"] < 2e-3
    for pool in ("full_corpus", "impressions"):
        assert manifest.offline_metrics[pool]["ndcg_change"] < 0.001
    # And again: it is there.
    precompute.main([*inputs, "--registry", str(tmp_path), "--item-rows", "embedding"])
    assert Registry(tmp_path).releases(MODEL) == [release]
    assert list((tmp_path / MODEL / ".staging").iterdir()) == []


def test_publish_without_anything_precomputed(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no precomputed release; run 'ranktower precompute'"):
        publish.main(["--registry", str(tmp_path), "--model", MODEL])
    with pytest.raises(ReleaseError, match="no release is published"):
        promote.main(["--registry", str(tmp_path), "--model", MODEL])


def test_a_damaged_release_is_not_published(own: Path) -> None:
    folder, _ = staged(own)
    rows = folder / "items" / "rows.bin"
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: SHA-256"):
        publish.main(["--registry", str(own), "--model", MODEL])
    assert Registry(own).releases(MODEL) == []
    assert folder.is_dir()


def test_redis_gets_every_row_and_then_the_pointer(
    own: Path, inputs: list[str], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    place = ["--registry", str(own), "--model", MODEL]
    publish.main(place)
    release = Registry(own).releases(MODEL)[0]
    client = open_sync_client(RedisOptions(redis_server.url))
    client.flushdb()
    with pytest.raises(ReleaseError, match=rf"release '{release}' of model 'demo' is not complete"):
        promote.main([*place, "--store", "redis"])
    assert Registry(own).current(MODEL) is None, "nothing moves where Redis lacks the release"
    assert precompute.main([*inputs, "--registry", str(own), "--store", "redis"]) == 0
    folder, manifest = (
        Registry(own).release_dir(MODEL, release),
        read_manifest(Registry(own).release_dir(MODEL, release)),
    )
    # Of an item the multi-embedding alone: Hi = 3 of D = 16 in float16 behind the tag. Of a user that is the whole row.
    for side, row_size in (("user", 8 + 2 * 2 * 16), ("item", 8 + 2 * 3 * 16)):
        table = LocalTable(folder / f"{side}s", manifest.layout("user" if side == "user" else "item"))
        for number, one in enumerate(table.ids_at(slice(0, len(table)))):
            stored = client.get(row_key_prefix(MODEL, release, "user" if side == "user" else "item") + one.encode())
            assert stored == table.rows_at(np.array([number])).tobytes()[:row_size]
            assert len(stored) == row_size
    assert client.exists(manifest_key(MODEL, release))
    assert not client.exists(pointer_key(MODEL))
    assert promote.main([*place, "--store", "redis"]) == 0
    assert json.loads(client.get(pointer_key(MODEL)))["release"] == release
    client.close()


def test_redis_that_fails_in_between_says_how_to_go_on(
    own: Path, inputs: list[str], redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Redis on which this user may read and not write, so that only the pointer's SET fails."""
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    place = ["--registry", str(own), "--model", MODEL]
    publish.main(place)
    precompute.main([*inputs, "--registry", str(own), "--store", "redis"])
    client = open_sync_client(RedisOptions(redis_server.url))
    client.execute_command(
        "ACL", "SETUSER", "reader", "on", ">secret-word", "~*", "+get", "+exists", "+hello", "+client"
    )
    url = redis_server.url.replace("redis://", "redis://reader:secret-word@")
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", url)
    with pytest.raises(
        RankTowerError, match=r"the registry's pointer has moved, the one in Redis has not: mend it and run"
    ) as caught:
        promote.main([*place, "--store", "redis"])
    assert "secret-word" not in str(caught.value)
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    assert promote.main([*place, "--store", "redis"]) == 0
    client.execute_command("ACL", "DELUSER", "reader")
    client.close()


def test_redis_without_a_url_is_refused_before_any_work(
    own: Path, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANKTOWER_STORE__REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="--store redis: RANKTOWER_STORE__REDIS_URL is not set"):
        precompute.main([*inputs, "--registry", str(own), "--store", "redis"])


def test_a_mixture_of_runs_is_refused(inputs: list[str], exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "export"
    shutil.copytree(exported, other)
    description = json.loads((other / "model.json").read_text()) | {"run_id": "another"}
    (other / "model.json").write_text(json.dumps(description))
    mixed = [str(other) if word == str(exported) else word for word in inputs]
    with pytest.raises(ConfigError, match=r"ladder\.json: measured on run .*, the export is of run another; run 'ran"):
        precompute.main([*mixed, "--registry", str(tmp_path / "registry")])
    (other / "ladder.json").unlink()
    with pytest.raises(ConfigError, match="exported from run another"):
        precompute.main([*mixed, "--registry", str(tmp_path / "registry")])
    # Of all four, though a release takes two: an export is whole or none.
    (other / "embedding_scorer.float32.onnx").unlink()
    with pytest.raises(ConfigError, match=r"no export, embedding_scorer\.float32\.onnx is missing"):
        precompute.main([*mixed, "--registry", str(tmp_path / "registry")])


def test_a_release_has_the_scorers_of_its_dtype(own: Path, inputs: list[str], exported: Path) -> None:
    precompute.main([*inputs, "--registry", str(own), "--dtype", "float32", "--max-users", "0"])
    folders = {read_manifest(folder).row_dtype: folder for folder in (own / MODEL / ".staging").iterdir()}
    assert sorted(folders) == ["float16", "float32"]
    for dtype, folder in folders.items():
        for name in ("scorer", "embedding_scorer", "maxsim", "pooled"):
            assert (folder / f"{name}.onnx").read_bytes() == (exported / f"{name}.{dtype}.onnx").read_bytes()
        assert len(list(folder.glob("*.onnx"))) == 6  # and two towers


def test_a_reader_without_project_code_finds_the_ladder(registry: Path, exported: Path) -> None:
    """docs/formats.md: the graphs of the lower levels over the beginnings of rows, then the points of the manifest."""
    (folder,) = (registry / MODEL / ".staging").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["ladder"] == json.loads((exported / "ladder.json").read_text())["levels"]
    assert [level["level"] for level in manifest["ladder"]] == ["full", *["full_best"] * 3, "maxsim", "pooled"]
    user_rows, item_rows = (
        np.frombuffer((folder / side / "rows.bin").read_bytes(), dtype="<f2").reshape(-1, size)
        for side, size in (("users", 4 + 2 * 16), ("items", 4 + 3 * 16 + 4 * 3 * 8))  # Hu = 2, Hi = 3, D = 16, A = 8
    )
    embeddings = np.ascontiguousarray(item_rows[:, : 4 + 3 * 16])
    scores, differences = {}, {}
    for name in ("embedding_scorer", "maxsim", "pooled"):
        graph = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        feeds = ({"user_rows": user[None], "item_rows": embeddings} for user in user_rows)
        scores[name] = np.stack([graph.run(["scores"], feed)[0] for feed in feeds])
    full = scores["embedding_scorer"]
    for level in manifest["ladder"][-2:]:
        points = level["calibration"]["inputs"], level["calibration"]["outputs"]
        mapped = np.interp(scores[level["level"]], *points)  # but for the ends
        differences[level["level"]] = np.abs(mapped - full).mean()
    assert differences["maxsim"] < differences["pooled"] < np.abs(full.mean() - full).mean()


def test_an_export_without_a_ladder_gives_a_release_without_one(
    own: Path, inputs: list[str], exported: Path, tmp_path: Path
) -> None:
    """It is another release, because what it promises is another thing."""
    bare = tmp_path / "bare"
    shutil.copytree(exported, bare)
    (bare / "ladder.json").unlink()
    without = [str(bare) if word == str(exported) else word for word in inputs]
    precompute.main([*without, "--registry", str(own), "--max-users", "0"])
    ladders = {len(read_manifest(folder).ladder) for folder in (own / MODEL / ".staging").iterdir()}
    assert ladders == {0, 6}


@pytest.mark.parametrize(
    ("content", "text"),
    [("{", "Invalid JSON"), ('{"of": {}, "levels": [{"level": "best"}]}', "levels.0.level: Input should be 'full'")],
)
def test_a_wrong_ladder_is_named(content: str, text: str, inputs: list[str], exported: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(exported, wrong)
    (wrong / "ladder.json").write_text(content)
    mixed = [str(wrong) if word == str(exported) else word for word in inputs]
    with pytest.raises(ConfigError, match=rf"wrong/ladder\.json: .*{text}.*; run 'ranktower calibrate'"):
        precompute.main([*mixed, "--registry", str(tmp_path / "registry")])


def test_rows_that_cost_quality_are_no_release(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MAX_NDCG_CHANGE", -1.0)
    with pytest.raises(ReleaseError, match=r"float16 rows move NDCG in pool 'full_corpus' by .*--dtype float32"):
        precompute.main([*inputs, "--registry", str(tmp_path)])
    with pytest.raises(ReleaseError, match="no precomputed release"):
        publish.main(["--registry", str(tmp_path), "--model", MODEL])


def test_metrics_can_be_left_out(inputs: list[str], tmp_path: Path) -> None:
    precompute.main([*inputs, "--registry", str(tmp_path), "--max-users", "0"])
    _, manifest = staged(tmp_path)
    assert manifest.offline_metrics == {}
    assert manifest.parity["stored_rows"] > 0


def test_the_manifest_says_how_much_retrieval_finds(
    registry: Path, simulated: PreparedDataset, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = staged(registry)
    # Of 300 items 1,000 retrieved are all: nothing can be missed.
    assert manifest.offline_metrics["retrieval"] == {"num_users": 150, "k": 100, "num_retrieved": 300, "overlap": 1.0}
    scorer = ModelScorer.encode(load_run(trained_run).model, simulated)
    pooled = pooled_vectors(scorer.items[0].numpy())

    class ByPooledProduct(ModelScorer):
        """Scores exactly as the index does, in the data set's order of items, which is not the table's."""

        def __call__(self, user_row: int, item_rows: Any) -> Any:
            return pooled[item_rows] @ pooled_vectors(self.user(user_row)[0].numpy())[0]

    monkeypatch.setattr(quality, "RETRIEVED", 100)
    same = ByPooledProduct(scorer.model, scorer.user, scorer.items)
    assert quality._retrieval_overlap(folder, manifest, same, simulated)["overlap"] > 0.98  # but for float16's rounding
    full = quality._retrieval_overlap(folder, manifest, scorer, simulated)["overlap"]
    assert 1 / 3 < full < 0.98  # better than chance, and not the index's own order
