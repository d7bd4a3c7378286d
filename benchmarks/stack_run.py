"""Ten minutes of locust through the proxy of the compose stack; one replica is killed meanwhile, and Redis restarted.

Run: ``python benchmarks/stack_run.py``. Needs docker with compose; a stack that is not up is brought up, and taken down
at the end. Without ``--rate`` the rate is searched for: it doubles every 15 s until it is not held, and half of the
last one that was is taken, so that one replica could hold it alone. Everything shares the machine's cores, the
generator included. The result goes to ``benchmarks/results/stack_run-<date>.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from result_file import write_result
from service_run import say
from stack_compose import ComposeStack, engine_is_reachable
from stack_windows import Seen, between, figures, last_failure_s, read_record, windows

_LOCUSTFILE = Path(__file__).parent / "locust" / "locustfile.py"
_POLL_S = 0.5
_TIMEOUT_S = 120.0
_SEARCH_S = 15
_FIRST_RATE = 10
# What is meant by a rate that is held, in locust's own thresholds.
_HELD = ("--max-p99-ms", "100", "--max-failures", "0.001", "--max-shed", "0.01", "--max-out-of-time", "0.01")


class Stack(Protocol):
    """Replicas of the service behind a proxy, with Redis."""

    address: str

    def replicas(self) -> list[str]:
        """Names of all, running or not."""
        ...

    def kill(self, replica: str) -> None:
        """End a replica at once."""
        ...

    def revive(self, replica: str) -> None:
        """Start it again, unless it runs."""
        ...

    def restart_redis(self) -> None:
        """Stop and start Redis with its data."""
        ...

    def is_ready(self, replica: str) -> bool:
        """Whether it serves."""
        ...


@dataclass(frozen=True)
class Plan:
    """When what happens, in seconds from the first request; a killed replica that nothing has started again within
    ``revive_after_s`` is started here. ``rate`` is requests a second."""

    rate: int
    seconds: int = 600
    kill_at_s: float = 240.0
    revive_after_s: float = 20.0
    restart_redis_at_s: float = 420.0
    window_s: float = 10.0


@dataclass(frozen=True)
class Traffic:
    """Of locust: ids from the registry's current release of the model, and further options."""

    registry: Path
    model: str
    options: tuple[str, ...] = ()

    def command(self, address: str, *, rate: int, seconds: int) -> list[str]:
        """Headless, at a constant rate."""
        ids = ["--registry", str(self.registry), "--model", self.model]
        load = ["--headless", "--only-summary", "-u", str(rate), "-r", str(rate), "-t", f"{seconds}s"]
        return [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--host", address, *ids, *load, *self.options]


def main() -> None:
    """Measure, print and write one result."""
    options = _parser().parse_args()
    if not engine_is_reachable():  # `make bench` goes on without
        say("stack_run: no container engine is reachable, nothing is measured")
        return
    stack = ComposeStack(options.project, options.url)
    with stack.running(), tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(stack.copy_registry(Path(folder)), options.model)
        rate = options.rate or find_rate(stack, traffic)
        plan = Plan(rate, options.seconds, options.kill_at, options.revive_after, options.restart_redis_at)
        found = measure(stack, traffic, plan)
    write_result("stack_run", {"is_rate_searched": options.rate is None, **found}, "locust", "gevent")


def find_rate(stack: Stack, traffic: Traffic) -> int:
    """Half of the last rate, doubling from 10 requests/s, that was held."""
    rate = _FIRST_RATE
    while True:
        say(f"trying {rate} requests/s")
        command = [*traffic.command(stack.address, rate=rate, seconds=_SEARCH_S), *_HELD]
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if status == 1:
            return max(rate // 4, 1)
        if status:
            raise SystemExit(f"locust ended with status {status}")
        rate *= 2


def measure(stack: Stack, traffic: Traffic, plan: Plan) -> dict[str, Any]:
    """The whole run: the figures of its windows and phases, and what was done to the stack."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.csv"
        with _load(stack, traffic, plan, record) as locust:
            started_s = _first_request_s(locust, record)
            killed = _kill(stack, started_s, plan)
            restarted = _restart_redis(stack, started_s, plan)
            locust.wait(plan.seconds + _TIMEOUT_S)
        seen = read_record(record)
    end_s = started_s + plan.seconds
    killed["last_failure_s"] = last_failure_s(seen, started_s + killed["at_s"], started_s + restarted["at_s"])
    restarted["last_failure_s"] = last_failure_s(seen, started_s + restarted["at_s"], end_s)
    return {
        "rate_per_s": plan.rate,
        "seconds": plan.seconds,
        "replicas": len(stack.replicas()),
        "window_s": plan.window_s,
        "killed": killed,
        "redis_restarted": restarted,
        "phases": _phases(seen, started_s, _bounds(killed, restarted, plan)),
        "whole": figures(between(seen, started_s, end_s), seconds=plan.seconds),
        "windows": windows(seen, window_s=plan.window_s),
    }


def _bounds(killed: dict[str, Any], restarted: dict[str, Any], plan: Plan) -> dict[str, tuple[float, float]]:
    """From when to when each phase was; that of Redis takes a window at least."""
    back_s = killed["at_s"] + killed["both_ready_s"]
    over_s = restarted["at_s"] + max(restarted["took_s"], plan.window_s)
    return {
        "both replicas": (0.0, killed["at_s"]),
        "one replica": (killed["at_s"], back_s),
        "both again": (back_s, restarted["at_s"]),
        "Redis restarts": (restarted["at_s"], over_s),
        "after": (over_s, float(plan.seconds)),
    }


def _phases(seen: list[Seen], started_s: float, bounds: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What clients saw in each that took any time: a replica may be back only after Redis was restarted."""
    return {
        name: {"start_s": start_s, "seconds": round(end_s - start_s, 2)}
        | figures(between(seen, started_s + start_s, started_s + end_s), seconds=end_s - start_s)
        for name, (start_s, end_s) in bounds.items()
        if end_s > start_s
    }


def _kill(stack: Stack, started_s: float, plan: Plan) -> dict[str, Any]:
    """Kill a replica and wait until all serve again."""
    replicas = stack.replicas()
    _sleep_until(started_s + plan.kill_at_s)
    say("killing a replica")
    killed_s, revived_by = time.time(), "restart policy"
    stack.kill(replicas[0])
    while not all(map(stack.is_ready, replicas)):
        passed_s = time.time() - killed_s
        if passed_s > plan.revive_after_s and revived_by == "restart policy":
            revived_by = "this script"
            stack.revive(replicas[0])
        if passed_s > plan.revive_after_s + _TIMEOUT_S:
            raise SystemExit(f"{replicas[0]}: does not serve again")
        time.sleep(_POLL_S)
    ready_s = round(time.time() - killed_s, 2)
    return {"at_s": round(killed_s - started_s, 2), "revived_by": revived_by, "both_ready_s": ready_s}


def _restart_redis(stack: Stack, started_s: float, plan: Plan) -> dict[str, Any]:
    _sleep_until(started_s + plan.restart_redis_at_s)
    say("restarting Redis")
    restarted_s = time.time()
    stack.restart_redis()
    return {"at_s": round(restarted_s - started_s, 2), "took_s": round(time.time() - restarted_s, 2)}


@contextlib.contextmanager
def _load(stack: Stack, traffic: Traffic, plan: Plan, record: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Failures are what is measured here, so none is too many.
    command = [*traffic.command(stack.address, rate=plan.rate, seconds=plan.seconds), "--record", str(record)]
    with subprocess.Popen([*command, "--max-failures", "1"], stdout=sys.stderr) as locust:
        try:
            yield locust
        finally:
            locust.terminate()


def _first_request_s(locust: subprocess.Popen[bytes], record: Path) -> float:
    """When the first request was due, seconds since 1970."""
    while locust.poll() is None:
        if record.exists() and record.read_text(encoding="utf-8").count("\n") > 1:
            return read_record(record)[0].due_s
        time.sleep(0.05)
    raise SystemExit(f"locust ended with status {locust.returncode} before the first request")


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(moment_s - time.time(), 0.0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", default="ranktower", help="name of the compose project")
    parser.add_argument("--url", default=f"http://127.0.0.1:{os.environ.get('RANKTOWER_PORT', '8080')}")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rate", type=int, help="requests a second; searched for where left out")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--kill-at", type=float, default=240.0)
    parser.add_argument("--revive-after", type=float, default=20.0)
    parser.add_argument("--restart-redis-at", type=float, default=420.0)
    return parser


if __name__ == "__main__":
    main()
