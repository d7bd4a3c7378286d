"""The limit of a key, in one process and over several."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from service import rate_limit
from service.rate_limit import Rate, RateLimits

S = 1_000_000_000
SLOW = Rate(interval_ns=1000 * S, burst=50)  # no second request comes within a test


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [10**15]
    monkeypatch.setattr(rate_limit.time, "monotonic_ns", lambda: now[0])
    return now


@pytest.mark.parametrize("shared", [False, True])
def test_a_burst_and_then_one_each_interval(clock: list[int], shared: bool, tmp_path: Path) -> None:
    limits = RateLimits(tmp_path if shared else None)
    rate = Rate(interval_ns=2 * S, burst=3)
    assert [limits.take("a", rate) for _ in range(4)] == [0, 0, 0, 2]
    clock[0] += 2 * S - 1
    assert limits.take("a", rate) == 1e-9
    clock[0] += 1
    assert [limits.take("a", rate) for _ in range(2)] == [0, 2]
    assert limits.take("b", rate) == 0
    # What is refused is not counted: after any pause the burst is whole again, and never more than that.
    clock[0] += 10**13
    assert [limits.take("a", rate) for _ in range(4)] == [0, 0, 0, 2]


def test_a_limit_that_is_changed_holds_at_once(clock: list[int]) -> None:
    limits = RateLimits(None)
    for _ in range(10):
        assert limits.take("a", Rate(S, 10)) == 0
    assert limits.take("a", Rate(S, 5)) == 6
    assert limits.take("a", Rate(S, 11)) == 0


def test_a_key_that_is_gone_is_forgotten(clock: list[int]) -> None:
    limits = RateLimits(None)
    for key in ("a", "b"):
        limits.take(key, Rate(S, 1))
    limits.keep({"b"})
    assert [limits.take(key, Rate(S, 1)) for key in ("a", "b")] == [0, 1]


@pytest.mark.parametrize("rate", [Rate(10**12, 10**6), Rate(1000, 1)])
def test_the_extremes_of_the_settings_fit(clock: list[int], rate: Rate) -> None:
    clock[0] = 2**61  # some seventy years of uptime
    limits = RateLimits(None)
    for _ in range(1000):
        limits.take("a", rate)
    assert limits.take("a", Rate(rate.interval_ns, 1)) > 0


def take_many(folder: Path, times: int, admitted: multiprocessing.Queue[int]) -> None:
    limits = RateLimits(folder)
    admitted.put(sum(limits.take("a", SLOW) == 0 for _ in range(times)))


def test_processes_together_are_admitted_exactly_the_burst(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    admitted: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=take_many, args=(tmp_path, 2000, admitted)) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [admitted.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == SLOW.burst
    assert RateLimits(tmp_path).take("a", SLOW) > 0  # it outlives them all


def hold_the_lock(folder: Path, held: multiprocessing.Queue[int]) -> None:
    limits = RateLimits(folder)
    rate_limit._take = lambda cell, rate: held.put(1) or signal.pause()  # type: ignore[assignment, func-returns-value]
    limits.take("a", SLOW)


def test_a_process_that_dies_inside_locks_nobody_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=hold_the_lock, args=(tmp_path, held))
    process.start()
    held.get(timeout=60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert RateLimits(tmp_path).take("a", SLOW) == 0
    process.join()
