"""Large files are verified while the release is served: what is damaged there is found, and goes out of service."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.loaded
import service.verification
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import delete_release
from ranktower.errors import ReleaseError
from ranktower.release import Manifest, read_manifest, write_manifest
from ranktower.verification import UnreadableError, hash_file
from service.errors import ReleaseUnavailableError
from service.follower import Refusal
from service.metrics import Metrics
from service.releases import Releases
from service.settings import SHARED_FOLDER_ENV, Settings
from service.verification import LARGE_FILE_BYTES, verify_once

MODEL = "demo"
LARGE = "large.bin"


def point_at(root: Path, release: str) -> None:
    """Write the pointer by hand: ``promote`` would verify first."""
    (root / MODEL / "current").write_text(json.dumps({"release": release, "previous": []}))


def add_large_file(built: Any) -> None:
    """One file too large to be hashed before serving, sealed with the rest; its bytes lie on the disk as a hole."""
    with (built.folder / LARGE).open("wb") as file:
        file.truncate(LARGE_FILE_BYTES + 5)
    files = {**built.manifest.files, LARGE: hash_file(built.folder / LARGE)}
    write_manifest(built.folder, built.manifest.model_copy(update={"files": files}))


def flip_deep(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def times_served(server: Any, release: str) -> int:
    return sum(line["message"] == "release served" and line["release"] == release for line in server.lines())


def refusals(server: Any) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line["message"] == "release refused"]


def test_a_sound_release_is_served_and_verified_afterwards(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path)
    add_large_file(built)
    built.promote()
    server = start_server(tmp_path)
    server.wait_until(lambda: any(line["message"] == "release verified" for line in server.lines()), "verified")
    messages = [line["message"] for line in server.lines()]
    assert messages.index("release served") < messages.index("release verified")
    answer = server.client.get("/readyz").json()
    assert (answer["release"], answer["refused"]) == (built.release, None)
    assert server.stop() == 0


def test_a_byte_deep_in_a_large_file_brings_the_release_before_back(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = (build_release(tmp_path, seed=seed) for seed in (1, 2))
    add_large_file(second)
    flip_deep(second.folder / LARGE)
    first.promote()
    server = start_server(tmp_path, RELEASE__RETRY_MAX_MS="50")
    server.wait_ready(first.release)
    point_at(tmp_path, second.release)
    refused = {"release": second.release, "reason": "release_invalid"}
    server.wait_until(lambda: server.client.get("/readyz").json()["refused"] == refused, "refused")
    assert server.client.get("/readyz").json()["release"] == first.release
    assert server.score("user-1", [1]).json()["release"] == first.release
    assert server.metric("ranktower_release_info", release=first.release) == 1
    assert server.metric("ranktower_release_info", release=second.release) == 0
    assert f"{LARGE}: SHA-256 " in refusals(server)[0]["detail"]
    # It was served once, on trust. From now on it is hashed first, however often it is tried.
    server.wait_until(lambda: server.metric("ranktower_release_refused_total", reason="release_invalid") >= 4, "tried")
    assert times_served(server, second.release) == 1
    assert times_served(server, first.release) == 2
    flip_deep(second.folder / LARGE)
    server.wait_ready(second.release)
    assert server.client.get("/readyz").json()["refused"] is None
    assert server.stop() == 0


def test_without_a_release_before_nothing_is_served(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path)
    add_large_file(built)
    flip_deep(built.folder / LARGE)
    point_at(tmp_path, built.release)
    server = start_server(tmp_path)
    server.wait_not_ready("release_invalid")
    answer = server.score("user-1", [1])
    assert (answer.status_code, answer.json()["error_type"]) == (503, "release_invalid")
    assert times_served(server, built.release) == 1
    assert server.metric("ranktower_release_info", release=built.release) == 0
    assert server.stop() == 0


def test_a_service_that_verifies_before_serving_never_serves_it(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path)
    add_large_file(built)
    flip_deep(built.folder / LARGE)
    point_at(tmp_path, built.release)
    server = start_server(tmp_path, RELEASE__VERIFY="before_serving")
    server.wait_not_ready("release_invalid")
    assert times_served(server, built.release) == 0
    assert server.stop() == 0


def test_every_worker_refuses_what_one_has_found(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = (build_release(tmp_path, seed=seed) for seed in (1, 2))
    add_large_file(second)
    flip_deep(second.folder / LARGE)
    first.promote()
    server = start_server(tmp_path, "--workers", "2")
    server.wait_until(lambda: times_served(server, first.release) == 2, "served by both")
    point_at(tmp_path, second.release)
    server.wait_until(lambda: times_served(server, first.release) == 4, "served by both again")
    assert len(refusals(server)) == 2
    assert len({line["detail"] for line in refusals(server)}) == 1
    for _ in range(8):  # a connection each: the kernel gives it to either worker
        assert httpx.get(f"{server.url}/readyz").json()["release"] == first.release
    assert server.stop() == 0


@pytest.fixture
def manifest(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> Manifest:
    """Of a folder with one file; other tests of this module serve whole releases."""
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "rows").write_bytes(b"rows")
    return make_manifest(files={"rows": hash_file(tmp_path / "release" / "rows")})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The priorities of the threads that hashed, one entry a time; they really hash."""
    priorities: list[int] = []
    verify_files = service.verification.verify_files

    def note(*arguments: Any, **options: Any) -> None:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        verify_files(*arguments, **options)

    monkeypatch.setattr(service.verification, "verify_files", note)
    return priorities


def test_workers_share_a_finding_about_the_same_files(
    tmp_path: Path, manifest: Manifest, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_FOLDER_ENV, str(tmp_path))
    path, running = tmp_path / "release" / "rows", threading.Event()
    for _ in range(3):
        verify_once(path.parent, manifest, ["rows"], cancelled=running)
    assert len(hashed) == 1
    path.write_bytes(b"ROWS")
    for _ in range(3):
        with pytest.raises(ReleaseError, match="release/rows: SHA-256 "):
            verify_once(path.parent, manifest, ["rows"], cancelled=running)
    assert len(hashed) == 2
    path.unlink()
    path.write_bytes(b"rows")
    verify_once(path.parent, manifest, ["rows"], cancelled=running)
    assert len(hashed) == 3
    path.unlink()
    with pytest.raises(ReleaseError, match="release/rows: cannot be read: No such file or directory"):
        verify_once(path.parent, manifest, ["rows"], cancelled=running)


def test_one_worker_hashes_while_the_others_wait(
    tmp_path: Path, manifest: Manifest, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_FOLDER_ENV, str(tmp_path))
    threads = [
        threading.Thread(
            target=verify_once, args=(tmp_path / "release", manifest, ["rows"]), kwargs={"cancelled": threading.Event()}
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashed) == 1


def test_without_others_nothing_is_recorded(tmp_path: Path, manifest: Manifest, hashed: list[int]) -> None:
    for _ in range(2):
        verify_once(tmp_path / "release", manifest, ["rows"], cancelled=threading.Event())
    assert len(hashed) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every file is a large one, and none is hashed before the gate is opened."""
    opened = threading.Event()
    verify_files = service.verification.verify_files

    def wait(*arguments: Any, on_block: Callable[[], None]) -> None:
        while not opened.wait(0.01):
            on_block()
        verify_files(*arguments, on_block=on_block)

    monkeypatch.setattr(service.verification, "verify_files", wait)
    for module in (service.loaded, service.verification):
        monkeypatch.setattr(module, "LARGE_FILE_BYTES", 0)
    yield opened
    opened.set()


def releases_of(root: Path) -> Releases:
    return Releases(Settings.model_validate({"release": {"registry": str(root), "model": MODEL}}), Metrics())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_damaged_release_cannot_be_rolled_back_to(
    build_release: Callable[..., Any], tmp_path: Path, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (build_release(tmp_path, seed=seed) for seed in (1, 2))
    features = first.folder / "features.json"
    content = features.read_bytes()
    assert content.endswith(b"\n")
    features.write_bytes(content[:-1] + b" ")  # read as before, and no longer what was sealed
    releases = releases_of(tmp_path)
    for built in (first, second):
        point_at(tmp_path, built.release)
        await releases.poll()
    assert releases.current().release == second.release
    gate.set()
    await until(lambda: any(record.message == "release refused" for record in caplog.records))
    assert releases.refusal is None  # of the promoted release there is nothing to say
    point_at(tmp_path, first.release)
    await releases.poll()
    assert releases.current().release == second.release
    assert releases.refusal == Refusal(first.release, "release_invalid")
    await releases.stop()


async def test_the_hashing_takes_the_lowest_priority(
    build_release: Callable[..., Any], tmp_path: Path, gate: threading.Event, hashed: list[int]
) -> None:
    built = build_release(tmp_path)
    built.promote()
    releases = releases_of(tmp_path)
    gate.set()
    await releases.poll()
    await until(lambda: bool(hashed))
    assert hashed == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19
    await releases.stop()


async def test_a_stop_ends_the_hashing(
    build_release: Callable[..., Any], tmp_path: Path, gate: threading.Event
) -> None:
    build_release(tmp_path).promote()
    releases = releases_of(tmp_path)
    await releases.poll()

    def hashing() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("verify")]

    await until(lambda: len(hashing()) == 1)
    await releases.stop()
    await until(lambda: not hashing())
    assert not gate.is_set()
    with pytest.raises(ReleaseUnavailableError):
        releases.current()


async def test_a_fault_while_verifying_takes_no_release_out(
    build_release: Callable[..., Any],
    tmp_path: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    built = build_release(tmp_path)
    built.promote()
    monkeypatch.setenv(SHARED_FOLDER_ENV, str(tmp_path / "absent"))
    releases = releases_of(tmp_path)
    await releases.poll()
    await until(lambda: any(record.message == "verifying the release failed" for record in caplog.records))
    assert releases.current().release == built.release
    assert read_manifest(built.folder) == built.manifest
    await releases.stop()


async def test_a_file_that_cannot_be_read_just_now_is_no_damage_and_is_tried_again(
    build_release: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No open file left, say: the others must not take it for a finding about the release."""
    built = build_release(tmp_path)
    built.promote()
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv(SHARED_FOLDER_ENV, str(shared))
    monkeypatch.setattr(service.verification, "RETRY_S", 0.01)
    for module in (service.loaded, service.verification):
        monkeypatch.setattr(module, "LARGE_FILE_BYTES", 0)
    real, attempts = service.verification.verify_files, []

    def fail_twice(*arguments: Any, **more: Any) -> None:
        attempts.append(list(shared.glob("*.json")))
        if len(attempts) < 3:
            raise UnreadableError("items/rows.bin: cannot be read: Too many open files")
        real(*arguments, **more)

    monkeypatch.setattr(service.verification, "verify_files", fail_twice)
    releases = releases_of(tmp_path)
    with caplog.at_level(logging.INFO):
        await releases.poll()
        await until(lambda: any(record.message == "release verified" for record in caplog.records))
    assert attempts == [[], [], []]  # nothing was recorded before the last
    assert releases.current().release == built.release
    await releases.stop()


def test_the_release_before_comes_back_only_if_its_rows_are_still_in_redis(
    build_release: Callable[..., Any], start_server: Callable[..., Any], redis_server: Any, tmp_path: Path
) -> None:
    first, second = (build_release(tmp_path, seed=seed) for seed in (31, 32))
    add_large_file(second)
    for built in (first, second):
        dataclasses.replace(built, manifest=read_manifest(built.folder)).write_to_redis(redis_server.url)
    point_at(tmp_path, first.release)
    server = start_server(tmp_path, STORE__USERS="redis", STORE__ITEMS="redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(first.release)
    delete_release(RedisOptions(redis_server.url), MODEL, first.release)
    flip_deep(second.folder / LARGE)
    point_at(tmp_path, second.release)
    server.wait_until(lambda: times_served(server, second.release) == 1, "serving the second")
    server.wait_not_ready("release_invalid")
    assert times_served(server, first.release) == 1
    assert server.score("user-1", [1]).status_code == 503
    assert server.stop() == 0
