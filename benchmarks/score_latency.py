"""Time of ``/v1/score`` with 1,000 candidates over a real connection: local store and Redis, taken in turns.

Run: ``python benchmarks/score_latency.py``. Needs a redis-server. The service has one core, the client and Redis the
other; one connection, the next request once the last is answered, so these are latencies and no throughput. Every
request has other candidates.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from reference_release import MODEL, build_reference_release, serving
from result_file import write_result

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.registry import Registry
from ranktower.release import TABLES, Manifest

ROUNDS = 5


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=2000, help="of each store")
    options = parser.parse_args()
    server_core, other_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {other_core})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest = build_reference_release(root, num_users=options.rows, num_items=options.rows)
        redis, url = _start_redis(root)
        try:
            _fill(root, manifest, url)
            in_redis = {"RANKTOWER_STORE__USERS": "redis", "RANKTOWER_STORE__ITEMS": "redis"}
            in_redis |= {"RANKTOWER_STORE__REDIS_URL": url}
            users_in_redis = in_redis | {"RANKTOWER_STORE__ITEMS": "local"}
            figures = _measure(
                root,
                {"local": {}, "users in redis, items local": users_in_redis, "redis": in_redis},
                options,
                server_core,
            )
        finally:
            redis.terminate()
    write_result(
        "score_latency",
        {"num_rows": options.rows, "num_candidates": options.candidates, "requests": options.requests, "ms": figures},
        "numpy",
        "onnxruntime",
        "fastapi",
        "redis",
    )


def _measure(
    root: Path, stores: dict[str, dict[str, str]], options: argparse.Namespace, server_core: int
) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in stores}
    bodies = _bodies(options.rows, options.candidates)
    for _ in range(ROUNDS):
        for name, env in stores.items():
            with serving(root, env, cores={server_core}) as address, httpx.Client(base_url=address) as client:
                for warm in bodies[:50]:
                    client.post("/v1/score", content=warm)
                for number in range(options.requests // ROUNDS):
                    started = time.perf_counter()
                    answer = client.post("/v1/score", content=bodies[number % len(bodies)])
                    times[name].append((time.perf_counter() - started) * 1e3)
                    if answer.status_code != 200 or answer.json()["missing"]:
                        raise RuntimeError(f"not a full answer: {answer.text[:200]}")
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 90, 99)}


def _bodies(num_rows: int, num_candidates: int) -> list[bytes]:
    random = np.random.default_rng(0)
    return [
        json.dumps(
            {
                "user_id": int(random.integers(num_rows)),
                "candidate_ids": random.choice(num_rows, num_candidates, replace=False).tolist(),
            }
        ).encode()
        for _ in range(200)
    ]


def _start_redis(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("needs a redis-server on the PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    return process, f"redis://127.0.0.1:{port}/0"


def _fill(root: Path, manifest: Manifest, url: str) -> None:
    folder = Registry(root).release_dir(MODEL, manifest.release)
    with RedisWriter(RedisOptions(url, timeout_s=60), manifest) as writer:
        for side in SIDES:
            writer.write_table(side, LocalTable(folder / TABLES[side], manifest.layout(side)))
        writer.finish()


if __name__ == "__main__":
    main()
