"""What traces cost ``/v1/score`` with 1,000 candidates: off, every hundredth request, every request.

Run: ``python benchmarks/tracing.py``; ``--before FOLDER`` measures a checkout of an earlier commit as well. Needs wrk
and two cores. All services run at once on one core and are loaded in turns, by a closed loop for the rate and the
processor time of a request, then at random times at half of the rate of ``off`` for latencies; ratios are to ``off`` in
the same round. A collector on the generator's core takes the spans and throws them away. What one request's notes and
spans take of the event loop is timed apart, in this process. The result goes to
``benchmarks/results/tracing-<date>.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import load
from reference_release import MODEL, served
from reference_release import Served as Service
from result_file import write_result
from service_run import SETUPS, Cores, Release, add_core_options, process_cpu_s, reference, say, take_cores
from timing import in_turns

from offline.bench.requests import random_requests
from service.context import Endpoint, RequestContext, Served
from service.metrics import Stage
from service.request_log import RequestLog
from service.settings import LogSettings
from service.tracing import Tracing

CONNECTIONS = 4
OPEN_CONNECTIONS = 64
RATIOS = {"every 100th request": "0.01", "every request": "1.0"}
STAGES: tuple[Stage, ...] = ("queue", "parse", "queue", "fetch", "score", "serialize")
Figures = dict[str, float]


class _Collector(BaseHTTPRequestHandler):
    """Reads spans and forgets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    release = reference(SETUPS["local"], num_users=options.rows, num_items=options.rows)
    bodies = random_requests(release.folder, num_candidates=options.candidates, num_bodies=400).bodies
    with _collector() as url, _services(release, cores, environments(url, options.before)) as services:
        rounds = []
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            # Each comes first once in a while: the first run after a pause is slower.
            first = number % len(services)
            order = [*list(services)[first:], *list(services)[:first]]
            rounds.append(_round({name: services[name] for name in order}, bodies, cores, options.seconds))
        parts = _parts(url)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "seconds": options.seconds}
    settings |= {"rounds": options.rounds, "server_core": cores.server, "generator_core": cores.generator}
    write_result(
        "tracing", settings | {"parts": parts} | summary(rounds), "opentelemetry-sdk", "onnxruntime", "uvicorn"
    )


def environments(collector: str, before: Path | None) -> dict[str, dict[str, str]]:
    """Variables of each service by its name; ``off`` comes first."""
    found: dict[str, dict[str, str]] = {"off": {}}
    if before is not None:
        # Without the safe path, the folder in which this runs would win.
        found["before"] = {"PYTHONPATH": str(before.resolve()), "PYTHONSAFEPATH": "1"}
    for name, ratio in RATIOS.items():
        found[name] = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, **_sampler(ratio)}
    return found


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def _services(release: Release, cores: Cores, by_name: Mapping[str, dict[str, str]]) -> Iterator[dict[str, Service]]:
    """All at once, each in a registry of its own for its log, with the same release."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        services = {}
        for number, (name, env) in enumerate(by_name.items()):
            registry = Path(folder) / str(number)
            registry.mkdir()
            (registry / MODEL).symlink_to((release.root / MODEL).resolve())
            services[name] = stack.enter_context(served(registry, env, cores={cores.server}))
        yield services


def _round(services: Mapping[str, Service], bodies: list[bytes], cores: Cores, seconds: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for name, service in services.items():
        cpu_before = process_cpu_s(service.pid)
        closed = load.closed_loop(
            service.address, bodies, connections=CONNECTIONS, seconds=seconds, cores={cores.generator}
        )
        if closed.errors:
            raise RuntimeError(f"{name}: {closed.errors} requests failed")
        cpu_us = (process_cpu_s(service.pid) - cpu_before) / (closed.requests_per_s * seconds) * 1e6
        found[name] = {"requests_per_s": closed.requests_per_s, "cpu_us": cpu_us}
    rate = load.PoissonRate(found["off"]["requests_per_s"] / 2)
    for name, service in services.items():
        opened = load.open_loop(
            service.address, bodies, rate=rate, seconds=seconds, connections=OPEN_CONNECTIONS, cores={cores.generator}
        )
        found[name] |= {"p50_ms": opened.p50_ms, "p99_ms": opened.p99_ms}
    return found


def _parts(collector: str) -> dict[str, dict[str, float]]:
    """Microseconds of the event loop for one request: to note its stages, and then to see whether it gets a line or
    spans."""
    served = _served_request()

    last_s = 0.0

    @contextlib.contextmanager
    def timed() -> Iterator[None]:
        nonlocal last_s
        start = time.perf_counter()
        yield
        last_s = time.perf_counter() - start

    def time_alone(_: int) -> None:
        RequestContext({}, {})
        for _stage in STAGES:
            with timed():
                pass

    log = RequestLog(LogSettings())
    calls = {
        "stages timed": time_alone,
        "stages timed and noted": lambda _: _served_request(),
        "request log, no line": lambda _: log.observe(served),
    }
    for name, ratio in {"trace, not sampled": "0", "trace, sampled": "1"}.items():
        tracing = _tracing(collector, ratio)
        calls[name] = lambda _, tracing=tracing: tracing.observe(served)
    # So few that no batch is full: the sending thread would be measured too.
    return in_turns(calls, 60, warmed=calls)


def _served_request() -> Served:
    context = RequestContext({}, {})
    for stage in STAGES:
        with context.stage(stage):
            pass
    context.release, context.level, context.user = "20260101T000000Z-00000000", "full", "PRESENT"
    context.num_candidates, context.num_missing, context.status = 1000, 0, 200
    return Served(context, Endpoint("score", "/v1/score"), "POST", time.perf_counter())


def _tracing(collector: str, ratio: str) -> Tracing:
    """Reads its settings from the environment when it is started."""
    os.environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2048",
        **_sampler(ratio),
    }
    tracing = Tracing()
    asyncio.run(tracing.start())
    return tracing


def _sampler(ratio: str) -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}


def summary(rounds: list[dict[str, Figures]]) -> dict[str, Any]:
    """Medians over the rounds: of each figure by service, and of its ratio to that of ``off`` in the same round."""
    figures: dict[str, Any] = {"services": {}, "ratios": {}}
    for name, keys in rounds[0].items():
        figures["services"][name] = {key: round(statistics.median(one[name][key] for one in rounds), 3) for key in keys}
        if name != "off":
            figures["ratios"][name] = {
                key: round(statistics.median(one[name][key] / one["off"][key] for one in rounds), 3) for key in keys
            }
    return figures


if __name__ == "__main__":
    main()
