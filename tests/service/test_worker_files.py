"""What several workers say together, when one is killed and started again too."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import MULTIPROC_ENV

BODY = {"user_id": "user-1", "candidate_ids": [1, 2, "unknown"], "budget_ms": 10_000}


@pytest.fixture(scope="module")
def pair(release: Any, start_server: Callable[..., Any]) -> Any:
    """A server with two workers, each of which serves the release."""
    server = start_server(release.folder.parent.parent, "--workers", "2")
    wait_for_workers(server, 2)
    return server


def wait_for_workers(server: Any, served: int) -> None:
    """Until so many workers, dead ones included, have said that they serve the release, and two have been measured."""

    def all_serve() -> bool:
        num_served = sum(line["message"] == "release served" for line in server.lines())
        return num_served == served and len(workers(server)) == 2 and server.metric("ranktower_workers") == 2

    server.wait_until(all_serve, "two workers")


def workers(server: Any) -> dict[int, Path]:
    """The folder of the metrics by the processes that know of it."""
    found = {}
    parent = server.process.pid
    for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        with contextlib.suppress(ProcessLookupError):  # it is gone
            is_worker = b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
            for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                name, _, value = variable.decode().partition("=")
                if name == MULTIPROC_ENV and is_worker:
                    found[child] = Path(value)
    return found


def ask(server: Any, times: int) -> None:
    # On a connection of its own each: the kernel gives it to either worker.
    for _ in range(times):
        assert httpx.post(f"{server.url}/v1/score", json=BODY).status_code == 200


def counts(server: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample that must never go back."""
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if not (family.name.startswith("ranktower_shadow") and sample.name.endswith("_sum"))
    }


def kill_one(server: Any) -> int:
    victim = min(workers(server))
    num_served = sum(line["message"] == "release served" for line in server.lines())
    os.kill(victim, signal.SIGKILL)
    server.wait_until(lambda: victim not in workers(server), "rid of the victim")
    wait_for_workers(server, num_served + 1)
    return victim


def test_counts_and_sums_are_those_of_all_workers(pair: Any) -> None:
    before = counts(pair)
    ask(pair, 20)
    after = counts(pair)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    assert grown("ranktower_request_duration_seconds_count", endpoint="score", outcome="ok") == 20
    assert grown("ranktower_candidates_sum") == 60
    assert grown("ranktower_candidates_bucket", le="10.0") == 20
    assert grown("ranktower_missing_total", side="item") == 20
    assert grown("ranktower_answers_total", role="current", priority="normal") == 20
    assert grown("ranktower_budget_used_ratio_bucket", endpoint="score", le="1.0") == 20


def test_gauges_say_what_they_mean_for_all_workers(pair: Any, release: Any) -> None:
    texts = {httpx.get(f"{pair.url}/metrics").text for _ in range(6)}
    for text in texts:
        assert "pid=" not in text
        samples = {s.name: s for f in text_string_to_metric_families(text) for s in f.samples}
        assert samples["ranktower_workers"].value == 2
        assert samples["ranktower_build_info"].value == 1
        info = samples["ranktower_release_info"]
        assert (info.value, info.labels["release"]) == (1, release.release)
        created_s = release.manifest.created.timestamp()
        assert samples["ranktower_release_age_seconds"].value == pytest.approx(time.time() - created_s, abs=60)
        assert 0 < time.time() - samples["ranktower_start_time_seconds"].value < 300


def test_nothing_goes_back_when_workers_are_killed_under_load(pair: Any) -> None:
    """And nothing is left of the dead but their counts, in one file of each kind."""
    stop, backward = threading.Event(), []

    def look() -> None:
        before = counts(pair)
        while not stop.is_set():
            try:
                now = counts(pair)
            except httpx.TransportError:  # the connection was one of the victim's
                continue
            # Processor time is no whole number: added up in another order, its last bit may differ.
            backward.extend(key for key, value in before.items() if now.get(key, -1.0) < value - 1e-9)
            before = now

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    folder = next(iter(workers(pair).values()))
    victims = []
    for _ in range(3):
        ask(pair, 5)
        victims.append(kill_one(pair))
    stop.set()
    for watcher in watchers:
        watcher.join()
    assert backward == []
    httpx.get(f"{pair.url}/metrics")
    alive = set(workers(pair))
    assert {int(path.stem.rsplit("_", 1)[1]) for path in folder.glob("*.db")} == {0, *alive}
    assert {path.name for path in folder.glob("*_0.db")} == {"counter_0.db", "histogram_0.db"}
    assert not alive & set(victims)


def test_the_youngest_worker_tells_the_start_time(pair: Any) -> None:
    before = pair.metric("ranktower_start_time_seconds")
    kill_one(pair)
    assert pair.metric("ranktower_start_time_seconds") > before


def test_processor_time_and_memory_are_measured(pair: Any) -> None:
    spent_s = pair.metric("ranktower_cpu_seconds_total")
    ask(pair, 20)
    pair.wait_until(lambda: pair.metric("ranktower_cpu_seconds_total") > spent_s, "measured again")
    # Two interpreters with numpy and onnxruntime, and not the same pages counted for every worker.
    assert 50e6 < pair.metric("ranktower_memory_bytes") < 2e9
