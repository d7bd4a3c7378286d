"""An overload of three times saturation comes and goes: time to recover, memory, and time to refuse a request.

Run: ``python benchmarks/overload.py``. Needs wrk, a redis-server and two cores, as ``budgets.py``. Half of the
saturation rate is offered, then three times, then half again, each request with its budget. The service has recovered
at the first window of 200 ms from which on, over one second, no more requests are outside the budget and no more
answers degraded than before the overload, but for one in a hundred and three standard errors of a second's share. All
that is repeated: memory that a round costs would add up. How long a refusal takes is read from the service's own
/metrics, from the reading of the request to the decision. The result goes to
``benchmarks/results/overload-<date>.json``.
"""

from __future__ import annotations

import argparse
import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import load
from budgets import CONNECTIONS, add_load_options, bodies_of, saturation_rate, services
from prometheus_client.parser import text_string_to_metric_families
from result_file import write_result
from service_run import Cores, Running, say, take_cores

from offline.bench.answers import Answers, OpenResult
from offline.bench.offer import Phase, offer

OVERLOAD, REST = 3.0, 0.5
WINDOW_S = 0.2
_SETTLED_S = 1.0
# Of a second's requests, what more than before still counts as none: a stall of the machine costs a few. And the
# requests come at random times, so the shares of a second scatter.
_SLACK = 0.01
_STANDARD_ERRORS = 3.0
_SAMPLE_S = 0.05
_DURATIONS = "ranktower_shed_duration_seconds"


def main() -> None:
    """Measure, print and write one result."""
    parser = add_load_options(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--budget", type=float, default=10.0, help="of every request, in ms")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = take_cores(options)
    figures: dict[str, Any] = {}
    with services(options, cores) as started:
        for name, service in started:
            figures[name] = _measure(name, service, cores, options)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "seconds": options.seconds}
    settings |= {"budget_ms": options.budget, "server_core": cores.server, "generator_core": cores.generator}
    write_result("overload", settings | {"stores": figures}, "numpy", "onnxruntime", "uvicorn", "redis", "hiredis")


def _measure(name: str, service: Running, cores: Cores, options: argparse.Namespace) -> dict[str, Any]:
    rate = saturation_rate(name, service, cores, options)
    bodies = bodies_of(service.release, options.candidates, options.budget)
    rss_before_mb, rounds = rss_mb(service.pid), []
    before = shed_histogram(_metrics(service))
    for number in range(options.rounds):
        say(f"{name}: round {number + 1} of {options.rounds}")
        phases = [Phase(share * rate, options.seconds, poisson_seed=number) for share in (REST, OVERLOAD, REST)]
        with sampled_rss(service.pid) as samples:
            endpoint = load.endpoint(service.address)
            answers = offer(endpoint, bodies, phases, connections=CONNECTIONS, cores={cores.generator})
        rounds.append(_figures(answers, options) | {"peak_rss_mb": max(samples), "rss_mb": rss_mb(service.pid)})
    shed = shed_histogram(_metrics(service))
    shed.subtract(before)
    return {
        "saturation_per_s": round(rate, 1),
        "rss_before_mb": rss_before_mb,
        "rounds": rounds,
        "shed": shed_figures(shed),
    }


def _metrics(service: Running) -> str:
    return httpx.get(f"{service.address}/metrics").text


def _figures(answers: Answers, options: argparse.Namespace) -> dict[str, Any]:
    """Each phase as a whole, and the seconds from the end of the overload until all is as before it."""
    seconds, budget_ms = options.seconds, options.budget
    found: dict[str, Any] = {}
    for number, phase in enumerate(("before", "overload", "after")):
        part = answers.between(number * seconds, (number + 1) * seconds)
        found[phase] = load.figures(OpenResult.of(part, seconds=seconds, budget_ms=budget_ms))
    before = answers.between(0, seconds)
    usual_outside = float((~before.inside(budget_ms)).mean())
    after = answers.between(2 * seconds, 3 * seconds)
    recovered_s = recovery_s(after, budget_ms, usual_outside=usual_outside, usual_degraded=degraded_share(before))
    return {"recovery_s": recovered_s, **found}


def recovery_s(
    after: Answers, budget_ms: float, *, usual_outside: float = 0.0, usual_degraded: float = 0.0
) -> float | None:
    """Seconds from the first request of ``after`` to the window from which on all is as usual for a second; None if
    that never comes.

    Args:
        after: requests behind an overload.
        budget_ms: of each.
        usual_outside: share of the requests that is not answered inside the budget without one.
        usual_degraded: share of the answers that is degraded without one.
    """
    start, last = float(after.due_s[0]), float(after.due_s[-1]) - _SETTLED_S
    for number in range(int((last - start) / WINDOW_S) + 1):
        since = start + number * WINDOW_S
        part = after.between(since, since + _SETTLED_S)
        outside = float((~part.inside(budget_ms)).mean())
        shares = ((outside, usual_outside), (degraded_share(part), usual_degraded))
        if all(share <= _most(usual, len(part.status)) for share, usual in shares):
            return round(since - start, 1)
    return None


def _most(usual: float, num_requests: int) -> float:
    """The largest share that is still as usual among so many requests."""
    scatter = math.sqrt(usual * (1.0 - usual) / max(num_requests, 1))
    return usual + _SLACK + _STANDARD_ERRORS * scatter


def degraded_share(answers: Answers) -> float:
    """Of the answers with 200."""
    good = answers.status == 200
    return float(answers.degraded[good].mean()) if good.any() else 0.0


def shed_histogram(metrics: str) -> Counter[str]:
    """Of the text of ``/metrics``: ``count`` and ``sum`` (seconds) of the refused requests, and by
    each bucket's bound in seconds how many took at most so long."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(metrics):
        if family.name != _DURATIONS:
            continue
        for sample in family.samples:
            found[sample.labels.get("le") or sample.name.removeprefix(f"{_DURATIONS}_")] += sample.value
    return found


def shed_figures(histogram: Counter[str]) -> dict[str, float]:
    """Mean and bounds of two quantiles, in milliseconds, of a ``shed_histogram``."""
    count = histogram["count"]
    if not count:
        return {"requests": 0}
    up_to = {float(key): value for key, value in histogram.items() if key not in ("count", "sum")}
    quantiles = {
        f"p{q}_at_most_ms": min(bound for bound, value in up_to.items() if value >= count * q / 100) * 1e3
        for q in (50, 99)
    }
    return {"requests": int(count), "mean_ms": round(histogram["sum"] / count * 1e3, 4), **quantiles}


@contextmanager
def sampled_rss(pid: int) -> Iterator[list[float]]:
    """Resident memory in MiB, every 50 ms as long as the block runs; at least one sample."""
    samples, is_over = [rss_mb(pid)], threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_S):
            samples.append(rss_mb(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MiB, its mapped tables included."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 1)


if __name__ == "__main__":
    main()
