"""How long a start takes until the service is ready, and the memory of each further worker, by the number of items.

Run: ``python benchmarks/start_and_memory.py``; needs 14 GB of disk for ten million items and takes about ten minutes,
most of them for building the releases. ``--registry FOLDER`` takes a release that is there: one that
``build_reference_release`` made, in the current format. The result goes to
``benchmarks/results/start_and_memory-<date>.json``.

A start counts from the creation of the process to the first 200 of ``/readyz``, asked every 5 ms. ``evicted``: the
release's files were taken out of the page cache before it (the programs' were not). ``cached``: the start before it has
touched the same pages. ``before_serving``: every byte is hashed first, as ``release.verify`` allows, once from a cache
that holds what fits.

Memory is that of ``/proc/<pid>/smaps_rollup`` after the requests. ``private``: pages that no other process maps, so of
a single worker the mapped tables too. ``pss``: each shared page counts for its part, so the sum over all processes is
what the service takes, and what the sum grows by is the cost of one more worker.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from reference_release import MODEL, stored_ids
from result_file import write_result
from service_run import SETUPS, reference

from ranktower.registry import Registry
from ranktower.release import Manifest, read_manifest

ITEMS = (10_000, 1_000_000, 10_000_000)
WORKERS = (1, 2, 3)
NUM_CANDIDATES = 1000
_ANSWER_TIMEOUT_S = 600.0


def main() -> int:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=list(ITEMS), help="sizes to build")
    parser.add_argument("--registry", type=Path, action="append", default=[], help="a built release to use as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="before the memory is read")
    options = parser.parse_args()
    given = {_current(root)[1].num_items: root for root in options.registry}
    figures: dict[str, Any] = {}
    for num_items in sorted({*options.items, *given}):
        root = given.get(num_items) or reference(SETUPS["local"], num_items=num_items).root
        figures[str(num_items)] = _measure(root, options.repeats, options.requests)
    content = {"cores_of_the_service": len(os.sched_getaffinity(0)), "repeats": options.repeats}
    content |= {"requests": options.requests, "num_candidates": NUM_CANDIDATES, "items": figures}
    write_result("start_and_memory", content, "numpy", "onnxruntime", "faiss-cpu", "fastapi", "pydantic")
    return 0


def _current(root: Path) -> tuple[Path, Manifest]:
    pointer = Registry(root).current(MODEL)
    if pointer is None:
        raise SystemExit(f"{root}: no release of {MODEL!r} is promoted there")
    folder = Registry(root).release_dir(MODEL, pointer.release)
    return folder, read_manifest(folder)


def _measure(root: Path, repeats: int, num_requests: int) -> dict[str, Any]:
    folder, manifest = _current(root)
    starts: dict[str, list[float]] = {"evicted": [], "cached": []}
    for _ in range(repeats):
        for state, times in starts.items():
            if state == "evicted":
                _evict(folder)
            with _serving(root) as (_, _, start_s):
                times.append(start_s)
    with _serving(root, {"RANKTOWER_RELEASE__VERIFY": "before_serving"}) as (_, _, before_serving_s):
        pass
    several = [_start_time(root, num_workers) for num_workers in WORKERS[1:]]
    memory = {str(num_workers): _memory(root, manifest, num_workers, num_requests) for num_workers in WORKERS}
    sums = [entry["pss_sum_mb"] for entry in memory.values()]
    return {
        "release_mb": round(sum(entry.size_bytes for entry in manifest.files.values()) / 2**20),
        "start_to_ready_s": {state: _summary(times) for state, times in starts.items()},
        "start_to_ready_before_serving_s": round(before_serving_s, 2),
        "start_to_ready_of_workers_s": dict(zip(map(str, WORKERS[1:]), several, strict=True)),
        "memory": memory,
        "pss_of_each_further_worker_mb": [round(b - a, 1) for a, b in itertools.pairwise(sums)],
    }


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 2), "largest": round(max(times), 2)}


def _start_time(root: Path, num_workers: int) -> float:
    with _serving(root, {"RANKTOWER_HTTP__WORKERS": str(num_workers)}) as (_, _, start_s):
        return round(start_s, 2)


def _evict(folder: Path) -> None:
    """Take the files out of the page cache; what is dirty is written first, for it would stay."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _memory(root: Path, manifest: Manifest, num_workers: int, num_requests: int) -> dict[str, Any]:
    with _serving(root, {"RANKTOWER_HTTP__WORKERS": str(num_workers)}) as (server, address, _):
        _wait_for_workers(root, num_workers)
        _ask(address, root, manifest, num_requests)
        workers = [pid for pid in _family(server.pid) if _is_worker(pid, server.pid, num_workers)]
        others = [pid for pid in _family(server.pid) if pid not in workers]
        return {
            "private_of_workers_mb": [_rollup(pid, "Private_Clean", "Private_Dirty") for pid in workers],
            "anonymous_of_workers_mb": [_rollup(pid, "Anonymous") for pid in workers],
            "pss_of_workers_mb": [_rollup(pid, "Pss") for pid in workers],
            "pss_of_other_processes_mb": [_rollup(pid, "Pss") for pid in others],
            "pss_sum_mb": round(sum(_rollup(pid, "Pss") for pid in [*workers, *others]), 1),
        }


def _ask(address: str, root: Path, manifest: Manifest, num_requests: int) -> None:
    """Every other request retrieves its candidates; the rest bring ids of stored items. The same in every run."""
    random = np.random.default_rng(0)
    users = stored_ids(root, "user", manifest)
    items = stored_ids(root, "item", manifest)
    for number in range(num_requests):
        user = int(users[random.integers(len(users))])
        if number % 2:
            path, body = "/v1/rank", {"user_id": user, "num_candidates": NUM_CANDIDATES, "top_k": 10}
        else:
            candidates = items[random.integers(0, len(items), NUM_CANDIDATES)].tolist()
            path, body = "/v1/score", {"user_id": user, "candidate_ids": candidates}
        # A connection each: the kernel gives it to any of the workers.
        httpx.post(address + path, json=body, timeout=60).raise_for_status()


@contextlib.contextmanager
def _serving(root: Path, env: Mapping[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """``ranktower serve`` in a process of its own: the process, its address, and the seconds until it was ready."""
    command = [sys.executable, "-m", "ranktower.cli", "serve", "--registry", str(root), "--model", MODEL]
    log = root / "service.log"
    with log.open("wb") as output:
        started = time.perf_counter()
        server = subprocess.Popen(
            [*command, "--port", "0"], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            address = f"http://127.0.0.1:{_port(server, log)}"
            _wait_ready(server, address, log)
            yield server, address, time.perf_counter() - started
        finally:
            server.terminate()
            server.wait(timeout=60)


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    while server.poll() is None:
        for line in _lines(log):
            if "port" in line:
                return int(line["port"])
        time.sleep(0.005)
    raise RuntimeError(f"the service did not start: {log.read_text()}")


def _wait_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    with httpx.Client(timeout=30) as client:
        while server.poll() is None and time.monotonic() < deadline:
            # The port accepts before anything answers, so the first request waits inside the kernel.
            with contextlib.suppress(httpx.TransportError):
                answer = client.get(f"{address}/readyz")
                if answer.status_code == 200:
                    return
                if answer.json()["error_type"] not in {"loading", "no_release"}:
                    break
            time.sleep(0.005)
    raise RuntimeError(f"the service did not become ready: {log.read_text()}")


def _wait_for_workers(root: Path, num_workers: int) -> None:
    while sum(line["message"] == "release served" for line in _lines(root / "service.log")) < num_workers:
        time.sleep(0.05)


def _lines(log: Path) -> list[dict[str, Any]]:
    """The log's whole lines; the last may be half written."""
    return [json.loads(line) for line in log.read_text().split("\n")[:-1] if line.startswith("{")]


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _is_worker(pid: int, parent: int, num_workers: int) -> bool:
    if num_workers == 1:
        return pid == parent
    return pid != parent and b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def _rollup(pid: int, *keys: str) -> float:
    """Sum of these lines of ``smaps_rollup`` in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(sum(int(line.split()[1]) for line in lines if line.split(":")[0] in keys) / 1024, 1)


if __name__ == "__main__":
    if sys.platform != "linux":
        raise SystemExit("reads /proc, which is Linux's")
    raise SystemExit(main())
