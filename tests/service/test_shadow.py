"""The shadow release: what it reports on a running server, and that its work comes last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import service.shadow
from ranktower.metrics import overlap_at_k
from ranktower.pointer import Variation
from ranktower.registry import Registry
from service.answering import Scored
from service.metrics import Metrics
from service.parsing import Query
from service.releases import Releases
from service.settings import Settings
from service.shadow import ShadowScorer
from service.shadow_metrics import ShadowMetrics

MODEL = "demo"
CANDIDATES = list(range(250))


@pytest.fixture(scope="module")
def two(build_release: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    root = tmp_path_factory.mktemp("shadow")
    built = [build_release(root, seed=seed) for seed in (51, 52)]
    built[0].promote()
    return built


@pytest.fixture(scope="module")
def root(two: list[Any]) -> Path:
    folder: Path = two[0].folder.parent.parent
    return folder


def shadow(root: Path, release: str | None, share: float = 1.0) -> None:
    Registry(root).vary(MODEL, "shadow", Variation(release=release, share=share) if release else None)


class Shadowed:
    """A server, and what its shadow has counted since."""

    def __init__(self, server: Any, release: str) -> None:
        self.server = server
        server.wait_until(lambda: (self._status() or {}).get("serving") and self._status()["release"] == release, "on")
        self._before = self._all()

    def _status(self) -> Any:
        return self.server.client.get("/readyz").json()["shadow"]

    def _all(self) -> dict[str, float]:
        lines = self.server.client.get("/metrics").text.splitlines()
        parts = [line.rsplit(" ", 1) for line in lines if line.startswith("ranktower_shadow_")]
        return {name: float(value) for name, value in parts if "_created" not in name}

    def count(self, name: str) -> float:
        name = f"ranktower_shadow_{name}"
        return self._all().get(name, 0.0) - self._before.get(name, 0.0)

    def score(self, user: str, **more: Any) -> Any:
        """Scored, and compared by the shadow."""
        before = self.count('answers_total{outcome="compared"}')
        body = self.server.score(user, CANDIDATES, **more).json()
        self.server.wait_until(lambda: self.count('answers_total{outcome="compared"}') == before + 1, "compared")
        return body


@pytest.fixture(scope="module")
def server(two: list[Any], root: Path, start_server: Callable[..., Any]) -> Any:
    started = start_server(root)
    started.wait_ready(two[0].release)
    return started


def test_a_shadow_equal_to_the_current_release_differs_in_nothing(two: list[Any], root: Path, server: Any) -> None:
    shadow(root, two[0].release)
    watched = Shadowed(server, two[0].release)
    for number in range(5):
        watched.score(f"user-{number}")
    watched.score("stranger", user_features={"country": "fr"})
    watched.score("stranger")
    for name in ("overlap", "rank_correlation", "score_drift", "score_difference"):
        assert watched.count(f"{name}_count") == 7
    assert watched.count("overlap_sum") == 7
    assert watched.count("score_difference_sum") == 0
    assert watched.count('rank_correlation_bucket{le="0.999"}') == 0
    assert watched.count('score_drift_bucket{le="-0.001"}') == 0
    assert watched.count('score_drift_bucket{le="0.0"}') == 7
    assert watched.count('answers_total{outcome="failed"}') == 0


def test_another_release_is_compared_by_the_definitions(two: list[Any], root: Path, server: Any) -> None:
    current, other = two
    shadow(root, other.release)
    watched = Shadowed(server, other.release)
    overlaps, differences = [], []
    for number in range(4):
        user = f"user-{number}"
        assert watched.score(user)["release"] == current.release
        ours, theirs = current.scores(user, CANDIDATES), other.scores(user, CANDIDATES)
        mask = np.ones((1, len(ours)), dtype=np.bool_)
        overlaps.append(overlap_at_k(ours[None], theirs[None], mask=mask, k=100)[0])
        differences.append(np.abs(theirs - ours).mean())
    # The graph's scores differ from torch's in the last bits, which may swap two neighbours at the hundredth place.
    assert watched.count("overlap_sum") == pytest.approx(sum(overlaps), abs=0.05)
    assert watched.count("score_difference_sum") == pytest.approx(sum(differences), abs=1e-3)
    assert watched.count("overlap_sum") < 3
    assert server.metric("ranktower_answers_total", role="canary") == 0


def test_ranked_answers_are_compared_and_retrieved_ones_too(two: list[Any], root: Path, server: Any) -> None:
    shadow(root, two[1].release)
    watched = Shadowed(server, two[1].release)
    for number, body in enumerate(({"candidate_ids": CANDIDATES}, {"num_candidates": 50}), start=1):
        assert server.client.post("/v1/rank", json={"user_id": "user-1", "top_k": 5, **body}).status_code == 200
        server.wait_until(lambda n=number: watched.count("overlap_count") == n, "compared")


def test_only_the_share_is_compared_and_nothing_once_it_is_off(two: list[Any], root: Path, server: Any) -> None:
    shadow(root, two[1].release, 1e-9)
    server.wait_until(lambda: (server.client.get("/readyz").json()["shadow"] or {}).get("share") == 1e-9, "share")
    watched = Shadowed(server, two[1].release)
    for _ in range(20):
        server.score("user-1", CANDIDATES)
    shadow(root, None)
    server.wait_until(lambda: server.client.get("/readyz").json()["shadow"] is None, "off")
    server.score("user-1", CANDIDATES)
    for outcome in ("compared", "dropped", "failed"):
        assert watched.count(f'answers_total{{outcome="{outcome}"}}') == 0


@dataclass
class Load:
    """Stands for the queue of requests, which no test could keep busy to the moment."""

    is_idle: bool = True


@dataclass
class Rig:
    releases: Releases
    load: Load
    scorer: ShadowScorer
    metrics: Metrics

    def offer(self, times: int = 1, release: Any = None, *, degraded: bool = False, **more: Any) -> None:
        scored = Scored(
            user="PRESENT",
            candidate_ids=["1", "2", "3"],
            scores=np.zeros(3, dtype=np.float32),
            missing=np.empty(0, dtype=np.int64),
            degraded={"level": "maxsim"} if degraded else None,
            computed=None,
            ages_s=None,
        )
        for _ in range(times):
            self.scorer.offer(release or self.releases.current(), Query(**{"user_id": "user-1", **more}), scored)

    def outcomes(self) -> dict[str, float]:
        names = ("compared", "dropped", "failed")
        values = (
            self.metrics.registry.get_sample_value("ranktower_shadow_answers_total", {"outcome": name})
            for name in names
        )
        return {name: value for name, value in zip(names, values, strict=True) if value}

    async def until(self, expected: dict[str, float]) -> None:
        async with asyncio.timeout(20):
            while self.outcomes() != expected:
                await asyncio.sleep(0.005)


@pytest.fixture
async def rig(two: list[Any], root: Path) -> Any:
    shadow(root, two[1].release)
    metrics = Metrics()
    releases = Releases(Settings.model_validate({"release": {"registry": str(root), "model": MODEL}}), metrics)
    await releases.poll()
    await releases.poll()
    load = Load()
    scorer = ShadowScorer(releases, load, ShadowMetrics(metrics.registry))
    yield Rig(releases, load, scorer, metrics)
    await scorer.stop()
    await releases.stop()
    shadow(root, None)


async def test_what_does_not_fit_into_the_queue_is_dropped(rig: Rig) -> None:
    rig.offer(20)
    assert rig.outcomes() == {"dropped": 12}
    rig.scorer.start()
    await rig.until({"dropped": 12, "compared": 8})


async def test_it_waits_for_the_requests_and_gives_up_in_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.load.is_idle = False
    rig.scorer.start()
    rig.offer()
    await asyncio.sleep(0.1)
    assert rig.outcomes() == {}
    rig.load.is_idle = True
    await rig.until({"compared": 1})
    monkeypatch.setattr(service.shadow, "_MAX_AGE_S", 0.05)
    rig.load.is_idle = False
    began = time.monotonic()
    rig.offer(3)
    await rig.until({"compared": 1, "dropped": 3})
    assert time.monotonic() - began >= 0.05
    rig.load.is_idle = True
    rig.offer()
    await rig.until({"compared": 2, "dropped": 3})


async def test_what_is_not_comparable_or_costs_too_much_is_not_taken(rig: Rig, two: list[Any], root: Path) -> None:
    Registry(root).vary(MODEL, "canary", Variation(release=two[1].release, share=1.0))
    await rig.releases.poll()
    Registry(root).vary(MODEL, "canary", None)
    canary = rig.releases.of_user("user-1")
    assert canary is rig.releases.trial("shadow").release  # one release, opened once, in two roles
    rig.scorer.start()
    rig.offer(degraded=True)
    rig.offer(release=canary)
    rig.offer(item_features={"new": {"price": 3.0}})
    rig.offer()
    await rig.until({"compared": 1})


async def test_requests_that_come_while_it_fetches_go_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    release = rig.releases.trial("shadow").release
    assert release is not None
    fetch_items, compute = release.store.fetch_items, release.towers["user"].compute
    fetched, computed = asyncio.Event(), []

    async def fetch_and_be_busy(*arguments: Any, **options: Any) -> Any:
        rig.load.is_idle = False
        fetched.set()
        return await fetch_items(*arguments, **options)

    def note(*arguments: Any) -> Any:
        computed.append(rig.load.is_idle)
        return compute(*arguments)

    monkeypatch.setattr(release.store, "fetch_items", fetch_and_be_busy)
    monkeypatch.setattr(release.towers["user"], "compute", note)
    rig.scorer.start()
    rig.offer(user_id="stranger", user_features={"country": "fr"})
    await fetched.wait()
    await asyncio.sleep(0.05)
    assert computed == []
    rig.load.is_idle = True
    await rig.until({"compared": 1})
    assert computed == [True]


async def test_a_shadow_that_fails_is_counted_and_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.scorer.start()
    rig.offer(user_features={"no such feature": 1})
    await rig.until({"failed": 1})
    assert caplog.records == []
    release = rig.releases.trial("shadow").release
    assert release is not None

    def fail(*arguments: Any) -> None:
        raise RuntimeError("a fault of the graph")

    monkeypatch.setattr(release.scorer, "score_stored", fail)
    rig.offer()
    await rig.until({"failed": 2})
    assert [record.message for record in caplog.records] == ["the shadow release failed"]
    monkeypatch.undo()
    rig.offer()
    await rig.until({"failed": 2, "compared": 1})


async def test_it_lets_go_of_the_release_when_it_is_stopped(rig: Rig, root: Path) -> None:
    rig.load.is_idle = False
    rig.scorer.start()
    rig.offer()
    await asyncio.sleep(0.02)
    await rig.scorer.stop()
    async with asyncio.timeout(5):
        await rig.releases.stop()  # waits for whoever holds a release
