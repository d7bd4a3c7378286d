"""Releases that must not be served: damaged after sealing, or sealed with a fault."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from ranktower.release import FORMAT_VERSION, read_manifest, write_manifest
from ranktower.verification import hash_file

MODEL = "demo"
CANDIDATES = list(range(100))
ATOL = 4e-5


def point_at(root: Path, release: str) -> None:
    """Write the pointer by hand: ``promote`` would verify first."""
    (root / MODEL / "current").write_text(json.dumps({"release": release, "previous": []}))


def flip_a_byte(folder: Path) -> None:
    path = folder / "items" / "rows.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove_a_file(folder: Path) -> None:
    (folder / "user_tower.onnx").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def truncate_a_file(folder: Path) -> None:
    path = folder / "users" / "rows.bin"
    path.write_bytes(path.read_bytes()[:-1])


def add_a_file(folder: Path) -> None:
    (folder / "stray.txt").write_text("?")


def raise_the_format_version(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + 1}))


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and seal it, as a publisher with a fault would."""
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder)
    files = {**manifest.files, name: hash_file(folder / name)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def seal_a_broken_graph(folder: Path) -> None:
    reseal(folder, "scorer.onnx", b"not a graph")


def seal_the_wrong_graph(folder: Path) -> None:
    reseal(folder, "scorer.onnx", (folder / "item_tower.onnx").read_bytes())


def seal_broken_features(folder: Path) -> None:
    reseal(folder, "features.json", b"{}")


def seal_golden_that_is_no_archive(folder: Path) -> None:
    reseal(folder, "golden.npz", b"PK?")


def seal_a_fallback_user_of_another_release(folder: Path) -> None:
    row = bytearray((folder / "fallback_user.bin").read_bytes())
    row[0] ^= 0xFF
    reseal(folder, "fallback_user.bin", bytes(row))


def change_golden(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(folder / "other.npz", **arrays)
    content = (folder / "other.npz").read_bytes()
    (folder / "other.npz").unlink()
    reseal(folder, "golden.npz", content)


def golden_scores_a_little_off(folder: Path) -> None:
    with np.load(folder / "golden.npz") as file:
        scores = file["scores"]
    scores[5] += 2e-4 / 0.25  # 2e-4 on the cosine-sum scale: twice the tolerance
    change_golden(folder, scores=scores)


def golden_scores_of_redis_a_little_off(folder: Path) -> None:
    with np.load(folder / "golden.npz") as file:
        scores = file["embedding_scores"]
    scores[5] -= 2e-4 / 0.25
    change_golden(folder, embedding_scores=scores)


def golden_without_the_scores_of_redis(folder: Path) -> None:
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "embedding_scores"}
    np.savez(folder / "other.npz", **arrays)
    content = (folder / "other.npz").read_bytes()
    (folder / "other.npz").unlink()
    reseal(folder, "golden.npz", content)


def golden_scores_nan(folder: Path) -> None:
    with np.load(folder / "golden.npz") as file:
        scores = file["scores"]
    scores[0] = np.nan
    change_golden(folder, scores=scores)


def golden_items_that_are_not_stored(folder: Path) -> None:
    change_golden(folder, item_ids=np.array(["nowhere"] * 64))


def no_golden_pair(folder: Path) -> None:
    change_golden(folder, user_ids=np.array([], "U1"), item_ids=np.array([], "U1"), scores=np.array([], np.float32))


DAMAGE: dict[str, list[Callable[[Path], None]]] = {
    "release_invalid": [
        flip_a_byte,
        remove_a_file,
        remove_the_manifest,
        truncate_a_file,
        add_a_file,
        raise_the_format_version,
        seal_a_broken_graph,
        seal_the_wrong_graph,
        seal_broken_features,
        seal_golden_that_is_no_archive,
        seal_a_fallback_user_of_another_release,
        no_golden_pair,
        shutil.rmtree,
    ],
    "golden_mismatch": [golden_scores_a_little_off, golden_scores_nan, golden_items_that_are_not_stored],
}
CASES = [pytest.param(reason, damage, id=damage.__name__) for reason in DAMAGE for damage in DAMAGE[reason]]


@pytest.mark.parametrize(
    ("items", "damage", "reason"),
    [
        ("redis", golden_scores_of_redis_a_little_off, "golden_mismatch"),
        ("redis", golden_without_the_scores_of_redis, "release_invalid"),
        ("redis", golden_scores_a_little_off, None),
        ("local", golden_scores_of_redis_a_little_off, None),
        ("local", golden_without_the_scores_of_redis, None),
        ("local+redis", golden_scores_a_little_off, "golden_mismatch"),
        ("local+redis", golden_scores_of_redis_a_little_off, "golden_mismatch"),
        ("local+redis", golden_without_the_scores_of_redis, "release_invalid"),
    ],
)
def test_the_pairs_prove_the_rows_that_are_served(
    build_release: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any], tmp_path: Path,
    items: str, damage: Callable[[Path], None], reason: str | None,
) -> None:  # fmt: skip
    """Rows in Redis hold no projections, so they have scores of their own: no others are compared with them."""
    built = build_release(tmp_path, seed=8)
    damage(built.folder)
    mended = dataclasses.replace(built, manifest=read_manifest(built.folder))
    with redis.Redis.from_url(redis_server.url) as client:  # of the case before, which had another manifest
        client.delete(*client.keys(f"ranktower:{MODEL}:{built.release}:*") or ["none"])
    mended.write_to_redis(redis_server.url)
    point_at(tmp_path, built.release)
    server = start_server(tmp_path, STORE__USERS="redis", STORE__ITEMS=items, STORE__REDIS_URL=redis_server.url)
    if reason is None:
        server.wait_ready(built.release)
    else:
        server.wait_not_ready(reason)
    assert server.stop() == 0


@pytest.fixture(scope="module")
def two_releases(build_release: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """An older and a newer release, the older promoted."""
    root = tmp_path_factory.mktemp("registry")
    first, second = (build_release(root, seed=seed) for seed in (1, 2))
    first.promote()
    return first, second


@pytest.fixture(scope="module")
def serving(two_releases: tuple[Any, Any], start_server: Callable[..., Any]) -> Any:
    server = start_server(two_releases[0].folder.parent.parent, RELEASE__RETRY_MAX_MS="100")
    server.wait_ready(two_releases[0].release)
    return server


@pytest.mark.parametrize(("reason", "damage"), CASES)
def test_a_damaged_release_is_refused_and_the_old_one_goes_on(
    serving: Any, two_releases: tuple[Any, Any], tmp_path: Path, reason: str, damage: Callable[[Path], None]
) -> None:
    first, second = two_releases
    root = first.folder.parent.parent
    shutil.copytree(second.folder, tmp_path / "backup")
    refused = serving.metric("ranktower_release_refused_total", reason=reason)
    try:
        damage(second.folder)
        point_at(root, second.release)
        serving.wait_until(
            lambda: serving.client.get("/readyz").json()["refused"] == {"release": second.release, "reason": reason},
            f"refused for {reason}",
        )
        ready = serving.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["release"] == first.release
        body = serving.score("user-1", CANDIDATES).json()
        assert body["release"] == first.release
        np.testing.assert_allclose(body["scores"], first.scores("user-1", CANDIDATES), atol=ATOL)
        assert serving.client.get("/v1/release").json()["refused"]["reason"] == reason
        assert serving.metric("ranktower_release_refused_total", reason=reason) > refused
        assert str(root) not in ready.text
    finally:
        # Mended only once nobody looks: it would be served, and stay open from then on.
        point_at(root, first.release)
        serving.wait_until(lambda: serving.client.get("/readyz").json()["refused"] is None, "at peace")
        shutil.rmtree(second.folder, ignore_errors=True)
        shutil.copytree(tmp_path / "backup", second.folder)


def test_a_release_that_was_mended_is_taken(serving: Any, two_releases: tuple[Any, Any], tmp_path: Path) -> None:
    first, second = two_releases
    root = first.folder.parent.parent
    missing = second.folder / "scorer.onnx"
    missing.rename(tmp_path / "aside")
    point_at(root, second.release)
    serving.wait_until(lambda: serving.client.get("/readyz").json()["refused"] is not None, "refused")
    (tmp_path / "aside").rename(missing)
    serving.wait_ready(second.release)
    assert serving.client.get("/readyz").json()["refused"] is None
    point_at(root, first.release)
    serving.wait_ready(first.release)


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"release": "../../etc", "previous": []}'])
def test_a_broken_pointer_changes_nothing(serving: Any, two_releases: tuple[Any, Any], content: str) -> None:
    first, _ = two_releases
    root = first.folder.parent.parent
    (root / MODEL / "current").write_text(content)
    serving.wait_until(lambda: serving.client.get("/readyz").json()["refused"] is not None, "refused")
    assert serving.client.get("/readyz").json()["refused"] == {"release": None, "reason": "release_invalid"}
    assert serving.score("user-1", [1]).json()["release"] == first.release
    point_at(root, first.release)
    serving.wait_until(lambda: serving.client.get("/readyz").json()["refused"] is None, "at peace")


@pytest.mark.parametrize(
    ("damage", "reason"), [(flip_a_byte, "release_invalid"), (golden_scores_nan, "golden_mismatch")]
)
def test_at_start_a_damaged_release_is_not_served(
    build_release: Callable[..., Any],
    start_server: Callable[..., Any],
    tmp_path: Path,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    built = build_release(tmp_path, seed=7)
    damage(built.folder)
    point_at(tmp_path, built.release)
    server = start_server(tmp_path)
    server.wait_not_ready(reason)
    assert server.score("user-1", [1]).json()["error_type"] == reason
    refusals = [line for line in server.lines() if line["message"] == "release refused"]
    assert [line["reason"] for line in refusals] == [reason]
    assert built.release in refusals[0]["detail"]
