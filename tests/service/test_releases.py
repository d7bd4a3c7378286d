"""Which release is served: a promote swaps under load, a roll back goes back, what was replaced is closed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import service.loaded
import service.verification
from ranktower.pointer import Pointer
from ranktower.registry import Registry
from service.errors import ReleaseUnavailableError
from service.metrics import Metrics
from service.pointer import PointerSource
from service.releases import Releases
from service.settings import Settings
from service.stores import ReleaseStore

MODEL = "demo"
CANDIDATES = list(range(100))
ATOL = 4e-5


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


def is_serving(releases: Releases, release: str) -> bool:
    with contextlib.suppress(ReleaseUnavailableError):
        return releases.current().release == release
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_fault_while_following_the_pointer_is_logged_and_tried_again(
    build_release: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_release(tmp_path, seed=8)
    built.promote()
    settings = {"registry": str(tmp_path), "model": MODEL, "poll_ms": 5, "retry_max_ms": 5}
    releases = Releases(Settings.model_validate({"release": settings}), Metrics())
    read, calls = PointerSource.read, itertools.count()

    async def fail_twice(self: PointerSource) -> Pointer | None:
        if next(calls) < 2:
            raise RuntimeError("a fault of the program")
        return await read(self)

    monkeypatch.setattr(PointerSource, "read", fail_twice)
    releases.start()
    await until(lambda: is_serving(releases, built.release))
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "following the release pointer failed; trying again"
    ] * 2
    await releases.stop()
    with pytest.raises(ReleaseUnavailableError):
        releases.current()


async def test_the_release_before_a_damaged_one_is_served_as_soon_as_the_store_answers_again(
    build_release: Callable[..., Any],
    restartable_redis: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()
    verify_files = service.verification.verify_files

    def wait(*arguments: Any, **options: Any) -> None:
        gate.wait()
        verify_files(*arguments, **options)

    monkeypatch.setattr(service.verification, "verify_files", wait)
    for module in (service.loaded, service.verification):
        monkeypatch.setattr(module, "LARGE_FILE_BYTES", 0)
    first, second = (build_release(tmp_path, seed=seed, num_items=50) for seed in (12, 13))
    for built in (first, second):
        built.write_to_redis(restartable_redis.url)
    settings = {
        "release": {"registry": str(tmp_path), "model": MODEL, "poll_ms": 10, "retry_max_ms": 10},
        "store": {"users": "redis", "items": "redis", "redis_url": restartable_redis.url},
    }
    releases = Releases(Settings.model_validate(settings), Metrics())
    for built in (first, second):
        built.promote()
        await releases.poll()
    features = second.folder / "features.json"
    features.write_bytes(features.read_bytes()[:-1] + b" ")
    restartable_redis.stop()
    gate.set()
    told = "the release before cannot be served again"
    await until(lambda: told in [record.message for record in caplog.records])
    with pytest.raises(ReleaseUnavailableError, match="damaged"):
        releases.current()
    restartable_redis.start()
    first.write_to_redis(restartable_redis.url)
    await until(lambda: is_serving(releases, first.release))
    await releases.stop()


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
