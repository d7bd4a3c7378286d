"""Overlays that are opened while other things happen, and what the metrics say of those that are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import service.loaded
import service.overlays
import service.verification
from offline import delta
from ranktower.embedding_store.overlay import Overlay, OverlayPointer, read_overlay_pointer
from ranktower.embedding_store.redis import overlay_key
from ranktower.errors import ReleaseError
from service.loaded import LoadedRelease, load_release
from service.metrics import Metrics
from service.open_releases import OpenReleases
from service.overlays import Overlays
from service.releases import Releases
from service.settings import Settings

MODEL = "demo"


@pytest.fixture
def built(build_release: Callable[..., Any], tmp_path: Path) -> Any:
    """A promoted release of the test's own."""
    built = build_release(tmp_path / "registry", seed=80, num_items=50)
    built.promote()
    return built


@pytest.fixture
def embed(built: Any, tmp_path: Path) -> Callable[..., OverlayPointer]:
    """``embed("5", "new")`` runs a delta with these items; what its pointer says."""

    def run(*item_ids: str) -> OverlayPointer:
        table = pl.DataFrame({"item_id": item_ids, "shelf": [7] * len(item_ids), "price": [3.5] * len(item_ids)})
        table.with_columns(genres=pl.lit(["x"])).write_parquet(tmp_path / "items.parquet")
        options = ["--registry", str(built.folder.parent.parent), "--model", MODEL]
        assert delta.main([*options, "--items", str(tmp_path / "items.parquet")]) == 0
        pointer = read_overlay_pointer(built.folder.parent / ".deltas" / built.release)
        assert pointer is not None
        return pointer

    return run


class Gate:
    """Overlays, by their numbers, that take as long to open as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed: set[int] = set()
        self.asked: list[int] = []
        self._open = service.overlays.open_overlay
        monkeypatch.setattr(service.overlays, "open_overlay", self._wait_and_open)

    def _wait_and_open(self, deltas: Path, pointer: OverlayPointer, manifest: Any) -> Overlay:
        self.asked.append(pointer.sequence)
        while pointer.sequence in self.closed:
            time.sleep(0.005)
        return self._open(deltas, pointer, manifest)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.closed.clear()


def settings_of(built: Any, **stores: Any) -> Settings:
    release = {"registry": str(built.folder.parent.parent), "model": MODEL, "poll_ms": 10, "retry_max_ms": 10}
    return Settings.model_validate({"release": release, "store": stores})


@pytest.fixture
async def loaded(built: Any) -> AsyncIterator[LoadedRelease]:
    release = await load_release(settings_of(built), built.release)
    yield release
    await release.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def has_row(release: LoadedRelease, item: str) -> bool:
    return bool(release.store.find("user-1", [item]).items[0].present[0])


async def test_the_release_pointer_is_followed_while_an_overlay_is_opened(
    built: Any, build_release: Callable[..., Any], embed: Callable[..., OverlayPointer], gate: Gate
) -> None:
    other = build_release(built.folder.parent.parent, seed=81, num_items=50)
    releases = Releases(settings_of(built), Metrics())
    releases.start()
    try:
        await until(lambda: releases.refusal is None)
        first = releases.current()
        gate.closed.add(1)
        embed("new")
        await until(lambda: gate.asked == [1])
        other.promote()
        await until(lambda: releases.current().release == other.release)
        assert not has_row(first, "new")
        gate.closed.clear()
        await until(lambda: has_row(first, "new"))  # it is still open, for a roll back
    finally:
        gate.closed.clear()
        await releases.stop()


async def test_of_two_that_follow_the_slower_puts_no_older_overlay_back(
    built: Any, loaded: LoadedRelease, embed: Callable[..., OverlayPointer], gate: Gate
) -> None:
    overlays = Overlays(settings_of(built).release, Metrics())
    gate.closed.add(1)
    embed("new")
    slower = asyncio.create_task(overlays.follow(loaded))
    await until(lambda: gate.asked == [1])
    latest = embed("newer")
    quicker = asyncio.create_task(overlays.follow(loaded))
    await asyncio.wait([quicker], timeout=0.5)
    gate.closed.clear()
    await asyncio.gather(slower, quicker)
    assert gate.asked == [1, 2]
    assert await loaded.store.served_overlay() == latest


async def test_two_that_follow_at_once_open_an_overlay_once(
    built: Any, loaded: LoadedRelease, embed: Callable[..., OverlayPointer], gate: Gate
) -> None:
    overlays = Overlays(settings_of(built).release, Metrics())
    embed("new")
    await asyncio.gather(*(overlays.follow(loaded) for _ in range(3)))
    assert gate.asked == [1]
    assert has_row(loaded, "new")


async def test_a_release_that_is_found_damaged_meanwhile_is_not_given_out(
    built: Any, embed: Callable[..., OverlayPointer], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (service.loaded, service.verification):
        monkeypatch.setattr(module, "LARGE_FILE_BYTES", 0)  # so nothing is hashed before it is opened
    embed("new")
    gate.closed.add(1)
    features = built.folder / "features.json"
    features.write_bytes(features.read_bytes()[:-1] + b" ")  # read as before, and no longer what was sealed
    settings, damaged = settings_of(built), asyncio.Event()
    opened = OpenReleases(settings, Overlays(settings.release, Metrics()), lambda release, error: damaged.set())
    asked = asyncio.create_task(opened.get((MODEL, built.release)))
    async with asyncio.timeout(20):
        await damaged.wait()
    await until(lambda: gate.asked == [1])
    gate.closed.clear()
    with pytest.raises(ReleaseError, match=f"{built.release}: was found damaged just now"):
        await asked
    await opened.stop()


async def test_of_two_stores_the_metrics_tell_the_earlier_overlay(
    built: Any, embed: Callable[..., OverlayPointer], redis_server: Any
) -> None:
    """A local overlay is refused, say, and its rows still win over those of Redis."""
    built.write_to_redis(redis_server.url)
    settings = settings_of(built, items="local+redis", redis_url=redis_server.url)
    metrics = Metrics()
    overlays = Overlays(settings.release, metrics)
    release = await load_release(settings, built.release)

    async def reported() -> tuple[float | None, float | None]:
        await overlays.follow_all([release])
        await overlays.report(release)
        value = metrics.registry.get_sample_value
        return value("ranktower_delta_timestamp_seconds"), value("ranktower_overlay_rows", {"side": "item"})

    pointer = embed("new", "5")
    assert await reported() == (0, 0)  # Redis has none
    later = pointer.model_copy(update={"created_s": pointer.created_s + 7, "num_items": 3})
    redis_server.command("set", overlay_key(MODEL, built.release), later.to_bytes().decode())
    assert await reported() == (pointer.created_s, 2)
    (built.folder.parent / ".deltas" / built.release / "current").unlink()
    assert await reported() == (0, 0)  # the tables have none
    await release.close()
