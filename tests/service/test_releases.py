"""Which release is served: damage is refused, a promote swaps under load, a roll back goes back."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ranktower.registry import Registry
from ranktower.release import hash_file, read_manifest, write_manifest
from service.errors import ReleaseUnavailableError
from service.metrics import Metrics
from service.pointer import Pointer
from service.releases import Releases
from service.settings import Settings
from service.stores import ReleaseStore

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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))


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


def test_promote_and_rollback_under_load_fail_no_request_and_mix_no_releases(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = [build_release(tmp_path, seed=seed) for seed in (3, 4, 5)]
    expected = {one.release: one.scores("user-1", CANDIDATES) for one in built}
    built[0].promote()
    server = start_server(tmp_path)
    server.wait_ready(built[0].release)
    stop, answers, failures = threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/v1/score", json={"user_id": "user-1", "candidate_ids": CANDIDATES})
                if answer.status_code != 200:
                    failures.append((answer.status_code, answer.text))
                    continue
                body = answer.json()
                answers.append(body["release"])
                if not np.allclose(body["scores"], expected[body["release"]], atol=ATOL, rtol=0):
                    failures.append((body["release"], body["scores"][:3]))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        registry = Registry(tmp_path)
        for step in (*(one.release for one in built[1:]), built[0].release, None, None):
            wanted = (registry.promote(MODEL, step) if step else registry.rollback(MODEL)).release
            server.wait_ready(wanted)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    served = [release for release, _ in itertools.groupby(answers)]
    assert set(served) == {one.release for one in built}
    # The releases are far apart: a mixture would not have passed for one of them.
    assert (
        min(np.abs(expected[a.release] - expected[b.release]).max() for a in built for b in built if a is not b) > 0.1
    )
    assert server.metric("ranktower_release_info", release=server.client.get("/readyz").json()["release"]) == 1
    assert server.metric("ranktower_release_info") == 1
    assert server.stop() == 0


def test_without_a_release_the_process_lives_and_takes_the_first_one(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server(tmp_path / "registry")
    server.wait_not_ready("no_release")
    assert server.client.get("/livez").status_code == 200
    for answer in (server.score("user-1", [1]), server.client.get("/v1/release"), server.client.get("/readyz")):
        assert answer.status_code == 503
        assert answer.json()["error_type"] == "no_release"
        assert answer.json()["error"] == "not ready: no release has been promoted"
    built = build_release(tmp_path / "registry", seed=6)
    built.promote()
    server.wait_ready(built.release)
    assert server.score("user-1", [1]).status_code == 200


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


async def test_a_fault_while_following_the_pointer_is_logged_and_tried_again(
    build_release: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_release(tmp_path, seed=8)
    built.promote()
    settings = {"registry": str(tmp_path), "model": MODEL, "poll_ms": 5, "retry_max_ms": 5}
    releases = Releases(Settings.model_validate({"release": settings}), Metrics())
    read, calls = Pointer.read, itertools.count()

    async def fail_twice(self: Pointer) -> str | None:
        if next(calls) < 2:
            raise RuntimeError("a fault of the program")
        return await read(self)

    monkeypatch.setattr(Pointer, "read", fail_twice)
    releases.start()
    async with asyncio.timeout(20):
        while releases.refusal is not None:
            await asyncio.sleep(0.01)
    assert releases.current().release == built.release
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "following the release pointer failed; trying again"
    ] * 2
    await releases.stop()
    with pytest.raises(ReleaseUnavailableError):
        releases.current()


async def test_a_replaced_release_is_closed_after_its_last_request(
    build_release: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = [build_release(tmp_path, seed=seed) for seed in (9, 10, 11)]
    releases = Releases(Settings.model_validate({"release": {"registry": str(tmp_path), "model": MODEL}}), Metrics())
    closed: list[str] = []
    close = ReleaseStore.close

    async def note(self: ReleaseStore) -> None:
        closed.append(self._release)
        await close(self)

    monkeypatch.setattr(ReleaseStore, "close", note)
    built[0].promote()
    await releases.poll()
    with releases.current().hold() as held:
        for one in built[1:]:
            one.promote()
            await releases.poll()
            assert releases.current().release == one.release
        await asyncio.sleep(0.05)
        assert held.release == built[0].release
        assert closed == []
    await asyncio.sleep(0.05)
    assert closed == [built[0].release]
    # The one before stays open, so going back costs no loading.
    assert Registry(tmp_path).rollback(MODEL).release == built[1].release
    before = releases.current()
    await releases.poll()
    assert releases.current().release == built[1].release
    assert releases.current() is not before
    await releases.stop()
    assert sorted(closed) == sorted(one.release for one in built)
