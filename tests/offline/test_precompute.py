from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.command import main as export
from offline import precompute, promote, publish, quality, rollback
from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.faiss_index import pooled_vectors
from ranktower.embedding_store.local import LocalTable, read_fallback_user
from ranktower.embedding_store.redis import manifest_key, pointer_key, row_key_prefix
from ranktower.embedding_store.redis_client import RedisOptions, open_sync_client
from ranktower.errors import ConfigError, RankTowerError, ReleaseError
from ranktower.registry import Registry
from ranktower.release import Manifest, read_manifest
from ranktower.training.evaluation import ModelScorer
from ranktower.training.run import load_run

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


def test_golden_scores_are_torchs_on_the_stored_rows(registry: Path, trained_run: Path) -> None:
    folder, manifest = staged(registry)
    model = load_run(trained_run).model
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        users, items = golden["user_ids"].tolist(), golden["item_ids"].tolist()
        scores, exact = golden["scores"], golden["scores_fp32"]
    assert len(scores) == 16 * 20
    rows: dict[str, tuple[torch.Tensor, ...]] = {}
    for side, ids in (("user", users), ("item", items)):
        layout = manifest.layout("user" if side == "user" else "item")
        table = LocalTable(folder / f"{side}s", layout)
        rows[side] = tuple(torch.from_numpy(a) for a in layout.decode(table.fetch(ids).raw).values())
    with torch.no_grad():
        ours = model.score_pairs(rows["user"], tuple(array[:, None] for array in rows["item"]))[:, 0].numpy()
    np.testing.assert_allclose(ours, scores, atol=1e-4)
    assert 0 < np.abs(scores - exact).max() * manifest.tau == pytest.approx(manifest.parity["stored_rows"], rel=1e-3)


def test_the_fallback_user_is_the_projected_mean(registry: Path, trained_run: Path) -> None:
    folder, manifest = staged(registry)
    raw = read_fallback_user(folder, manifest)
    assert raw is not None
    layout = manifest.layout("user")
    table = LocalTable(folder / "users", layout)
    mean = layout.decode(table.rows_at(np.arange(len(table))))["embedding"].mean(axis=0)
    fallback = layout.decode(raw)
    np.testing.assert_allclose(fallback["embedding"][0], mean, atol=2e-3)
    branch = load_run(trained_run).model.cross_attention.user_branch
    with torch.no_grad():
        gate = torch.sigmoid(branch.gate(torch.from_numpy(fallback["embedding"][0]))).numpy()
    np.testing.assert_allclose(fallback["gate"][0], gate, atol=2e-3)


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


def test_one_process_at_a_time_makes_a_release(own: Path, inputs: list[str]) -> None:
    folder, _ = staged(own)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="another process is making this release"):
            precompute.main([*inputs, "--registry", str(own)])
    finally:
        os.close(descriptor)
    assert precompute.main([*inputs, "--registry", str(own)]) == 0


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
    table = LocalTable(folder / "users", manifest.layout("user"))
    for number, one in enumerate(table.ids_at(slice(0, len(table)))):
        stored = client.get(row_key_prefix(MODEL, release, "user") + one.encode())
        assert stored == table.rows_at(np.array([number])).tobytes()
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
        RankTowerError, match=r"the registry serves .* by now, Redis does not: mend it and run"
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
    with pytest.raises(ConfigError, match="exported from run another"):
        precompute.main([*mixed, "--registry", str(tmp_path / "registry")])
    (other / "scorer.onnx").unlink()
    with pytest.raises(ConfigError, match=r"no export, scorer\.onnx is missing"):
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
