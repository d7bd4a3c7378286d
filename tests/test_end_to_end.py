"""The whole chain by its own commands: raw files to HTTP scores that equal torch's, locally and from a real Redis."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ReleaseError
from ranktower.registry import Registry
from ranktower.release import read_manifest
from ranktower.training.config import TrainConfig
from ranktower.training.run import load_run
from ranktower.training.tensors import side_features
from ranktower.verification import verify_release

MODEL = "films"


def ranktower(*arguments: str, env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "ranktower.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, small_config: TrainConfig, movielens_raw: Path) -> Path:
    """Every step up to a promoted release, each as the command a user types."""
    root = tmp_path_factory.mktemp("chain")
    small_config.dump(root / "config.yaml")
    data, run, export, registry = (str(root / name) for name in ("prepared", "run", "export", "registry"))
    ranktower("data", "import", "auto", "--source", str(movielens_raw), "--out", str(root / "tables"))
    ranktower("prepare", "--tables", str(root / "tables"), "--out", data, "--min-impressions", "20")
    ranktower("train", "--quiet", "--data", data, "--out", run, "--config", str(root / "config.yaml"))
    table = ranktower("evaluate", "--quiet", "--run", run, "--data", data, "--k", "20")
    assert "full corpus" in table
    assert "impressions" in table
    ranktower("export", "--run", run, "--data", data, "--out", export)
    ranktower("precompute", *precompute_options(root))
    ranktower("publish", "--registry", registry, "--model", MODEL)
    ranktower("promote", "--registry", registry, "--model", MODEL)
    return root


def precompute_options(root: Path) -> list[str]:
    places = {name: str(root / name) for name in ("run", "export", "registry")}
    options = [f"--{name}={place}" for name, place in places.items()]
    return [*options, "--data", str(root / "prepared"), "--model", MODEL]


@contextmanager
def serving(root: Path, env: dict[str, str] | None = None) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "ranktower.cli", "serve", "--registry", str(root / "registry")]
    command += ["--model", MODEL, "--host", "127.0.0.1", "--port", "0"]
    log = root / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening_port(server, log)}") as client:
            deadline = time.monotonic() + 30
            while not is_ready(client):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0


def is_ready(client: httpx.Client) -> bool:
    """False also while nothing answers: the port is known before the application has been imported."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def listening_port(server: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        for line in log.read_text().splitlines():
            content = json.loads(line) if line.startswith("{") else {}
            if "port" in content:
                return int(content["port"])
        time.sleep(0.05)
    raise AssertionError(f"the service did not start: {log.read_text()}")


def torch_scores(root: Path, user_id: str, item_ids: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores in full precision: the trained model on the prepared features, nothing stored, nothing exported."""
    run, dataset = load_run(root / "run"), PreparedDataset.load(root / "prepared")
    users = {one: row for row, one in enumerate(dataset.users.ids)}
    items = {one: row for row, one in enumerate(dataset.items.ids)}
    with torch.no_grad():
        user = run.model.encode_users(side_features(dataset.users.features.take(np.array([users[user_id]]))))
        rows = dataset.items.features.take(np.array([items[one] for one in item_ids]))
        item = run.model.encode_items(side_features(rows))
        scores: np.ndarray[Any, np.dtype[np.float32]] = run.model.score_pairs(user, tuple(a[None] for a in item))[
            0
        ].numpy()
    return scores


def assert_scores_are_torchs(root: Path, client: httpx.Client) -> None:
    tau = load_run(root / "run").model.similarity.tau.item()
    item_ids = [str(item) for item in range(1, 161)]
    for user_id in ("1", "42", "80"):
        answer = client.post("/v1/score", json={"user_id": user_id, "candidate_ids": item_ids}).json()
        assert answer["user"] == "PRESENT"
        assert answer["missing"] == []
        # The rows are stored in float16: its rounding, on the cosine-sum scale, is all that may differ.
        difference = np.abs(np.array(answer["scores"]) - torch_scores(root, user_id, item_ids)).max() * tau
        assert difference < 2e-3
        assert np.ptp(answer["scores"]) * tau > 20 * difference


def test_http_scores_equal_torchs(chain: Path) -> None:
    with serving(chain) as client:
        assert_scores_are_torchs(chain, client)


def test_http_scores_from_redis_equal_torchs(chain: Path, redis_server: Any) -> None:
    env = {"RANKTOWER_STORE__REDIS_URL": redis_server.url}
    told = ranktower("precompute", *precompute_options(chain), "--store", "redis", env=env)
    assert "80 users and 160 items" in told
    ranktower("promote", "--registry", str(chain / "registry"), "--model", MODEL, "--store", "redis", env=env)
    stores = {"RANKTOWER_STORE__USERS": "redis", "RANKTOWER_STORE__ITEMS": "redis"}
    with serving(chain, env | stores | {"RANKTOWER_RELEASE__POINTER": "redis"}) as client:
        assert_scores_are_torchs(chain, client)


def test_unknown_users_are_computed_from_features_or_fall_back(chain: Path) -> None:
    with serving(chain) as client:
        body: dict[str, Any] = {"user_id": "stranger", "candidate_ids": ["1", "2", "nowhere", "3"]}
        fallback = client.post("/v1/score", json=body).json()
        computed = client.post("/v1/score", json=body | {"user_features": {"age": "25", "gender": "M"}}).json()
        assert fallback["user"] == "FALLBACK"
        assert computed["user"] == "COMPUTED"
        for answer in (fallback, computed):
            assert answer["missing"] == [2]
            assert answer["scores"][2] is None
            assert all(isinstance(answer["scores"][place], float) for place in (0, 1, 3))
        assert fallback["scores"] != computed["scores"]


def test_ranking_is_the_scores_in_order(chain: Path) -> None:
    with serving(chain) as client:
        item_ids = [str(item) for item in range(1, 161)]
        scores = client.post("/v1/score", json={"user_id": 7, "candidate_ids": item_ids}).json()["scores"]
        body = {"user_id": 7, "candidate_ids": item_ids, "top_k": 10}
        ranked = client.post("/v1/rank", json=body).json()["items"]
        best = sorted(zip(scores, item_ids, strict=True), key=lambda pair: -pair[0])[:10]
        assert [one["score"] for one in ranked] == pytest.approx([score for score, _ in best])
        retrieved = client.post("/v1/rank", json={"user_id": 7, "top_k": 10}).json()["items"]
        assert len(retrieved) == 10
        assert {one["id"] for one in retrieved} <= set(item_ids)


def test_the_manifest_tells_what_the_rows_are_worth(chain: Path) -> None:
    registry = Registry(chain / "registry")
    pointer = registry.current(MODEL)
    assert pointer is not None
    manifest = verify_release(registry.release_dir(MODEL, pointer.release))
    assert manifest.row_dtype == "float16"
    assert manifest.offline_metrics["full_corpus"]["ndcg_change"] < 0.001
    assert manifest.offline_metrics["impressions"]["ndcg_change"] < 0.001
    assert 0 < manifest.parity["stored_rows"] < 2e-3
    assert all(manifest.parity[name] <= 1e-5 for name in ("scorer_random", "scorer_real", "user_tower", "item_tower"))


def test_the_same_inputs_give_the_release_that_is_there(chain: Path) -> None:
    before = Registry(chain / "registry").releases(MODEL)
    ranktower("precompute", *precompute_options(chain))
    ranktower("publish", "--registry", str(chain / "registry"), "--model", MODEL)
    assert Registry(chain / "registry").releases(MODEL) == before


def test_float32_rows_are_another_release_and_rollback_returns(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain, tmp_path / "copy")
    root = tmp_path / "copy"
    registry = Registry(root / "registry")
    first = registry.current(MODEL)
    assert first is not None
    ranktower("precompute", *precompute_options(root), "--dtype", "float32")
    ranktower("publish", "--registry", str(root / "registry"), "--model", MODEL)
    ranktower("promote", "--registry", str(root / "registry"), "--model", MODEL)
    second = registry.current(MODEL)
    assert second is not None
    assert second.release != first.release
    manifest = read_manifest(registry.release_dir(MODEL, second.release))
    assert manifest.row_dtype == "float32"
    assert manifest.parity["stored_rows"] < 1e-5
    assert manifest.offline_metrics["full_corpus"]["ndcg_change"] < 1e-6
    ranktower("rollback", "--registry", str(root / "registry"), "--model", MODEL)
    assert registry.current(MODEL) == first


def test_item_rows_without_projections_are_served_too(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain, tmp_path / "copy")
    root = tmp_path / "copy"
    ranktower("precompute", *precompute_options(root), "--item-rows", "embedding", "--max-users", "0")
    for step in ("publish", "promote"):
        ranktower(step, "--registry", str(root / "registry"), "--model", MODEL)
    pointer = Registry(root / "registry").current(MODEL)
    assert pointer is not None
    assert len(pointer.previous) == 1
    with serving(root) as client:
        served = client.get("/v1/release").json()
        assert (served["release"], served["item_rows"]) == (pointer.release, "embedding")
        assert_scores_are_torchs(root, client)


def test_a_killed_precompute_goes_on(chain: Path, tmp_path: Path, kill_when: Callable[..., None]) -> None:
    shutil.copytree(chain, tmp_path / "copy")
    root = tmp_path / "copy"
    shutil.rmtree(root / "registry")
    command = [sys.executable, "-m", "ranktower.cli", "precompute", *precompute_options(root), "--batch-rows", "3"]
    kill_when(command, lambda: bool(list(root.glob("registry/*/.staging/*/users/progress.json"))))
    registry = Registry(root / "registry")
    with pytest.raises(ReleaseError, match="is not published"):
        registry.promote(MODEL, "20260101T000000Z-00000000")
    (begun,) = [path.name for path in (root / "registry" / MODEL / ".staging").iterdir()]
    told = ranktower(*command[3:])
    assert begun in told, "the killed release was not gone on with"
    ranktower("publish", "--registry", str(root / "registry"), "--model", MODEL)
    killed, whole = registry.release_dir(MODEL, begun), next(iter((chain / "registry" / MODEL).glob("2*")))
    for table in ("users", "items"):
        rows = [np.fromfile(folder / table / "rows.bin", dtype=np.uint8) for folder in (killed, whole)]
        size = read_manifest(whole).layout("user" if table == "users" else "item").row_size
        ours, expected = (array.reshape(-1, size)[:, 8:] for array in rows)  # the tag differs with the release
        np.testing.assert_array_equal(ours, expected)
