"""Roles load beside each other: what is slow or broken in one delays no other, nor the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import service.open_releases
from ranktower.pointer import Variation
from ranktower.registry import Registry
from service.follower import Refusal
from service.metrics import Metrics
from service.releases import Releases
from service.settings import Settings

MODEL = "demo"


@pytest.fixture(scope="module")
def three(build_release: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    root = tmp_path_factory.mktemp("follower")
    return [build_release(root, seed=seed, num_items=50) for seed in (71, 72, 73)]


@pytest.fixture
def registry(three: list[Any]) -> Registry:
    """The first release is promoted, and nothing was before it."""
    registry = Registry(three[0].folder.parent.parent)
    (registry.root / MODEL / "current").unlink(missing_ok=True)
    three[0].promote()
    return registry


class Gate:
    """Releases that load for as long as a test wants, or raise what it wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed: set[str] = set()
        self.errors: dict[str, Exception] = {}
        self.given_up: list[str] = []
        self._load = service.open_releases.load_release
        monkeypatch.setattr(service.open_releases, "load_release", self._wait_and_load)

    async def _wait_and_load(self, settings: Settings, release: str, **more: Any) -> Any:
        try:
            while release in self.closed:
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.given_up.append(release)
            raise
        if release in self.errors:
            raise self.errors[release]
        return await self._load(settings, release, **more)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
async def releases(registry: Registry, gate: Gate) -> AsyncIterator[Releases]:
    settings = {"registry": str(registry.root), "model": MODEL, "poll_ms": 10, "retry_max_ms": 10}
    following = Releases(Settings.model_validate({"release": settings}), Metrics())
    following.start()
    yield following
    await following.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def serves(releases: Releases, release: str) -> Callable[[], bool]:
    def is_served() -> bool:
        return releases.refusal is None and releases.current().release == release

    return is_served


async def test_the_way_back_does_not_wait_for_what_is_being_loaded(
    three: list[Any], registry: Registry, gate: Gate, releases: Releases
) -> None:
    first, slow, canary = (one.release for one in three)
    await until(serves(releases, first))
    gate.closed.add(slow)
    registry.promote(MODEL, slow)
    registry.vary(MODEL, "canary", Variation(release=canary, share=1))
    await until(lambda: releases.of_user("user-1").release == canary)
    registry.vary(MODEL, "canary", None)
    await until(lambda: releases.of_user("user-1").release == first)
    registry.rollback(MODEL)
    await until(lambda: gate.given_up == [slow])
    assert releases.current().release == first
    gate.closed.clear()
    registry.promote(MODEL, slow)
    await until(serves(releases, slow))


async def test_a_canary_that_loads_slowly_delays_no_promotion(
    three: list[Any], registry: Registry, gate: Gate, releases: Releases
) -> None:
    first, second, slow = (one.release for one in three)
    await until(serves(releases, first))
    gate.closed.add(slow)
    registry.vary(MODEL, "canary", Variation(release=slow, share=1))
    registry.promote(MODEL, second)
    await until(serves(releases, second))
    assert releases.describe()["canary"]["serving"] is False
    gate.closed.clear()
    await until(lambda: releases.of_user("user-1").release == slow)


async def test_a_fault_in_one_role_is_logged_and_leaves_the_others_alone(
    three: list[Any], registry: Registry, gate: Gate, releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, faulty = (one.release for one in three)
    await until(serves(releases, first))
    gate.errors[faulty] = RuntimeError("a fault of the program")
    registry.vary(MODEL, "canary", Variation(release=faulty, share=1))
    await until(lambda: (releases.describe()["canary"] or {}).get("refused") == "release_invalid")
    assert "loading a release failed" in [record.message for record in caplog.records]
    assert releases.of_user("user-1").release == first
    registry.promote(MODEL, second)
    await until(serves(releases, second))
    gate.errors.clear()
    await until(lambda: releases.of_user("user-1").release == faulty)
    assert releases.describe()["canary"]["refused"] is None


async def test_the_promoted_release_is_loaded_before_any_other(
    three: list[Any], registry: Registry, gate: Gate, releases: Releases
) -> None:
    first, second, _ = (one.release for one in three)
    gate.closed.add(first)
    registry.vary(MODEL, "canary", Variation(release=second, share=1))
    await asyncio.sleep(0.1)
    assert releases.refusal == Refusal(None, "loading")
    assert releases.describe()["canary"] is None
    gate.closed.clear()
    await until(lambda: releases.refusal is None and releases.of_user("user-1").release == second)


async def test_a_stop_gives_up_what_is_being_loaded(three: list[Any], gate: Gate, releases: Releases) -> None:
    gate.closed.add(three[0].release)
    await asyncio.sleep(0.1)
    await releases.stop()
    assert gate.given_up == [three[0].release]
