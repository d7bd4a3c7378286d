"""Releases that change under load: no answer fails, and none has a score of another release than the one it names."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.registry import Registry

MODEL = "demo"
NUM_FLIPS = 50
NUM_ITEMS = 60
USERS = [f"user-{number}" for number in range(6)]
ATOL = 4e-5

Expected = dict[tuple[str, str], NDArray[np.float32]]


class Load:
    """Threads that ask all the time, each answer compared with torch's scores of the release it names."""

    def __init__(self, url: str, expected: Expected) -> None:
        self._url = url
        self._expected = expected
        self._stop = threading.Event()
        self.served: list[str] = []
        self.wrong: list[Any] = []

    @contextmanager
    def running(self, num_threads: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask) for _ in range(num_threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> None:
        candidates = list(range(NUM_ITEMS))
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for user in itertools.cycle(USERS):
                if self._stop.is_set():
                    return
                answer = client.post("/v1/score", json={"user_id": user, "candidate_ids": candidates})
                if answer.status_code != 200:
                    self.wrong.append((answer.status_code, answer.text))
                    continue
                body = answer.json()
                self.served.append(body["release"])
                expected = self._expected[user, body["release"]]
                if body["user"] != "PRESENT" or body["missing"] or body["degraded"]:
                    self.wrong.append(body)
                elif not np.allclose(body["scores"], expected, atol=ATOL, rtol=0):
                    self.wrong.append((body["release"], user, body["scores"][:3], expected[:3]))


@pytest.fixture(scope="module")
def three(build_release: Callable[..., Any], redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Three releases of the same ids; the rows of all are in Redis too."""
    root = tmp_path_factory.mktemp("consistency")
    built = [build_release(root, seed=seed, num_items=NUM_ITEMS) for seed in (61, 62, 63)]
    for one in built:
        one.write_to_redis(redis_server.url)
    return built


@pytest.mark.parametrize("store", ["local", "redis"])
def test_fifty_flips_under_load(
    store: str, three: list[Any], redis_server: Any, start_server: Callable[..., Any]
) -> None:
    candidates, in_redis = list(range(NUM_ITEMS)), store == "redis"
    expected = {(user, one.release): one.scores(user, candidates, in_redis=in_redis) for user in USERS for one in three}
    # The releases are far apart: a mixture would not pass for one of them.
    for user, (one, other) in itertools.product(USERS, itertools.combinations(three, 2)):
        assert np.abs(expected[user, one.release] - expected[user, other.release]).max() > 1000 * ATOL
    root: Path = three[0].folder.parent.parent
    three[0].promote()
    stores = {"STORE__USERS": store, "STORE__ITEMS": store, "STORE__REDIS_URL": redis_server.url}
    # A store's answer may take its time here: this is about what is answered, on a machine that does other things too.
    server = start_server(root, **stores, STORE__TIMEOUT_MS="5000", RELEASE__POLL_MS="20")
    server.wait_ready(three[0].release)
    load = Load(server.url, expected)
    with load.running():
        # Never the current one and never the one before it, which is still open: each flip loads a release.
        for one in itertools.islice(itertools.cycle([*three[1:], three[0]]), NUM_FLIPS):
            Registry(root).promote(MODEL, one.release)
            server.wait_ready(one.release)
    assert load.wrong == []
    assert set(load.served) == {one.release for one in three}
    served = [line["release"] for line in server.lines() if line["message"] == "release served"]
    assert len(served) == NUM_FLIPS + 1
    assert sum(line["message"] == "release loaded" for line in server.lines()) == NUM_FLIPS + 1
    assert server.metric("ranktower_release_info") == 1
    assert server.metric("ranktower_release_refused_total") == 0
    assert server.metric("ranktower_store_errors_total") == 0
    assert server.stop() == 0
