"""Releases that change under load: no answer fails, and none has a score of another release than the one it names."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.level_scorer import LevelScorer
from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.faiss_index import pooled_vectors
from ranktower.embedding_store.local import LocalTable
from ranktower.ladder import mix
from ranktower.pointer import Variation
from ranktower.registry import Registry

MODEL = "demo"
NUM_FLIPS = 50
NUM_ITEMS = 200
CANDIDATES = list(range(NUM_ITEMS))
NUM_RETRIEVED = 20
USERS = [f"user-{number}" for number in range(6)]
ATOL = 4e-5
# Nearly all of a budget is kept back: what is left decides the level, and the deadline itself is far.
MARGIN = 0.99
BUDGETS_MS = (20, 60, 100, 150, 200, 250, 300)


@dataclass(frozen=True)
class Expected:
    """What one release answers one user, by torch and by its ladder."""

    full: NDArray[np.float32]
    rough: Mapping[str, NDArray[np.float32]]
    """Calibrated scores of the lower levels."""
    nearest: frozenset[str]
    """What is retrieved."""

    def scores(self, degraded: Any) -> NDArray[np.float32]:
        if degraded is None:
            return self.full
        rough = self.rough["maxsim" if degraded["level"] == "full_best" else degraded["level"]]
        num_full = round(degraded["share"] * len(rough))
        return mix(self.full, rough, np.argsort(-rough, kind="stable")[:num_full]) if num_full else rough


def expect(release: Any, user: str, *, in_redis: bool) -> Expected:
    rows: dict[Side, NDArray[np.floating]] = {}
    for side, ids in (("user", [user]), ("item", CANDIDATES)):
        layout = release.manifest.redis_layout(side)  # the embedding alone, which is what lower levels read
        raw = LocalTable(release.folder / f"{side}s", release.manifest.layout(side)).fetch(ids).raw
        rows[side] = layout.values(np.ascontiguousarray(raw[:, : layout.row_size]))
    found = LevelScorer(release.folder).score(rows["user"], rows["item"], np.zeros(NUM_ITEMS, dtype=np.float32))
    levels = {level.level: level.calibration for level in release.manifest.ladder if level.calibration is not None}
    rough = {name: calibration.apply(getattr(found, name)) for name, calibration in levels.items()}
    user_row, item_rows = release.user_ids.index(user), [release.item_ids.index(str(item)) for item in CANDIDATES]
    vector = pooled_vectors(release.arrays("user")[0][[user_row]].numpy())[0]
    products = pooled_vectors(release.arrays("item")[0][item_rows].numpy()) @ vector
    nearest = frozenset(str(item) for item in np.argsort(-products)[:NUM_RETRIEVED].tolist())
    return Expected(release.scores(user, CANDIDATES, in_redis=in_redis), rough, nearest)


class Load:
    """Threads that ask all the time, each answer compared with what the release it names should answer."""

    def __init__(self, url: str, expected: Mapping[tuple[str, str], Expected]) -> None:
        self._url = url
        self._expected = expected
        self._stop = threading.Event()
        self.served: Counter[str] = Counter()
        """Answers by their release, and by their level."""
        self.wrong: list[Any] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        kinds = (self._score, self._score_hurried, self._rank)
        threads = [threading.Thread(target=self._ask, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, kind: Callable[[httpx.Client, int, str], None]) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for number, user in enumerate(itertools.cycle(USERS)):
                if self._stop.is_set():
                    return
                kind(client, number, user)

    def _score(self, client: httpx.Client, number: int, user: str) -> None:
        self._compare(client.post("/v1/score", json={"user_id": user, "candidate_ids": CANDIDATES}), user)

    def _score_hurried(self, client: httpx.Client, number: int, user: str) -> None:
        budget_ms = BUDGETS_MS[number // len(USERS) % len(BUDGETS_MS)]
        body = {"user_id": user, "candidate_ids": CANDIDATES, "budget_ms": budget_ms}
        answer = client.post("/v1/score", json=body)
        if answer.status_code in (429, 504):  # which is an answer, where there is no time
            self.served[answer.json()["error_type"]] += 1
        else:
            self._compare(answer, user, hurried=True)

    def _rank(self, client: httpx.Client, number: int, user: str) -> None:
        answer = client.post("/v1/rank", json={"user_id": user, "num_candidates": NUM_RETRIEVED})
        if answer.status_code != 200:
            self.wrong.append((answer.status_code, answer.text))
            return
        body = answer.json()
        expected = self._expected[user, body["release"]]
        scores = {item["id"]: item["score"] for item in body["items"]}
        if scores.keys() != expected.nearest or body["degraded"]:
            self.wrong.append((body["release"], user, sorted(scores.keys() ^ expected.nearest), body["degraded"]))
        elif not np.allclose(list(scores.values()), expected.full[list(map(int, scores))], atol=ATOL, rtol=0):
            self.wrong.append((body["release"], user, scores))
        self.served[body["release"]] += 1

    def _compare(self, answer: httpx.Response, user: str, *, hurried: bool = False) -> None:
        if answer.status_code != 200:
            self.wrong.append((answer.status_code, answer.text))
            return
        body = answer.json()
        degraded = body["degraded"]
        self.served.update([body["release"], degraded["level"] if degraded else "full"])
        if body["user"] != "PRESENT" or body["missing"] or (degraded and not hurried):
            self.wrong.append(body)
            return
        expected = self._expected[user, body["release"]].scores(degraded)
        if not np.allclose(body["scores"], expected, atol=ATOL, rtol=0):
            self.wrong.append((body["release"], user, degraded, body["scores"][:3], expected[:3]))


@pytest.fixture(scope="module")
def three(build_release: Callable[..., Any], redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Three releases of the same ids; the rows of all are in Redis too."""
    root = tmp_path_factory.mktemp("consistency")
    built = [build_release(root, seed=seed, num_items=NUM_ITEMS) for seed in (61, 62, 63)]
    for one in built:
        one.write_to_redis(redis_server.url)
    return built


def flip(root: Path, server: Any, release: str, number: int) -> int:
    """Promote a release, one time in five after it was the canary for a while; how often that loads it."""
    registry, times = Registry(root), 1
    if number % 5 == 0:
        before = server.metric("ranktower_answers_total", role="canary")
        registry.vary(MODEL, "canary", Variation(release=release, share=0.5))
        server.wait_until(lambda: server.metric("ranktower_answers_total", role="canary") > before, "with a canary")
        if number % 2:
            registry.vary(MODEL, "canary", None)
            server.wait_until(lambda: server.client.get("/readyz").json()["canary"] is None, "without a canary")
            times = 2
    registry.promote(MODEL, release)
    server.wait_ready(release)
    return times


@pytest.mark.parametrize("store", ["local", "redis"])
def test_fifty_flips_under_load(
    store: str, three: list[Any], redis_server: Any, start_server: Callable[..., Any]
) -> None:
    in_redis = store == "redis"
    expected = {(user, one.release): expect(one, user, in_redis=in_redis) for user in USERS for one in three}
    # The releases are far apart: a mixture would not pass for one of them.
    for user, (one, other) in itertools.product(USERS, itertools.combinations(three, 2)):
        ours, theirs = expected[user, one.release], expected[user, other.release]
        for first, second in (
            (ours.full, theirs.full),
            *((ours.rough[name], theirs.rough[name]) for name in ours.rough),
        ):
            assert np.abs(first - second).max() > 1000 * ATOL
    root: Path = three[0].folder.parent.parent
    three[0].promote()
    stores = {"STORE__USERS": store, "STORE__ITEMS": store, "STORE__REDIS_URL": redis_server.url}
    # A store's answer may take its time here: this is about what is answered, on a machine that does other things too.
    waits = {"STORE__TIMEOUT_MS": "5000", "OVERLOAD__MAX_WAIT_MS": "30000"}
    server = start_server(root, **stores, **waits, BUDGET__MARGIN=str(MARGIN), RELEASE__POLL_MS="20")
    server.wait_ready(three[0].release)
    load, times_loaded = Load(server.url, expected), 1
    with load.running():
        # Never the current one and never the one before it, which is still open: each flip loads a release.
        for number, one in enumerate(itertools.islice(itertools.cycle([*three[1:], three[0]]), NUM_FLIPS)):
            times_loaded += flip(root, server, one.release, number)
    assert load.wrong == []
    assert all(load.served[one.release] > 0 for one in three)
    assert sum(load.served[level] for level in ("full_best", "maxsim", "pooled")) > 0
    served = [line["role"] for line in server.lines() if line["message"] == "release served"]
    assert Counter(served) == {"current": NUM_FLIPS + 1, "canary": NUM_FLIPS // 5}
    assert sum(line["message"] == "release loaded" for line in server.lines()) == times_loaded
    assert server.metric("ranktower_release_info") == 1
    assert server.metric("ranktower_release_refused_total") == 0
    # A budget may be used up while Redis is asked; nothing else may happen to a row.
    assert server.metric("ranktower_store_errors_total") == server.metric(
        "ranktower_store_errors_total", kind="timeout"
    )
    assert server.stop() == 0
