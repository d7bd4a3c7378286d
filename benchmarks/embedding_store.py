"""What a request of 1,000 candidates costs in the stores: ids to rows, rows to arrays, and the way through Redis.

Run: ``taskset -c 0 python benchmarks/embedding_store.py``. With the URL of a Redis in the environment variable
``BENCHMARK_REDIS_URL``, and of a node of a cluster in ``BENCHMARK_CLUSTER_URL``, those are measured too (a release of
its own is written there and deleted again). The result goes to ``benchmarks/results/embedding_store-<date>.json``.
Alternatives are measured in turns, so that their ratio holds on a machine with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
import redis.asyncio.cluster
from result_file import write_result

from ranktower.embedding_store.codec import ARRAYS, RowLayout
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.redis import RedisStore, RedisWriter, delete_release, row_key_prefix
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.table_writer import write_table
from ranktower.release import Manifest, release_tag

RELEASE = "20000101T000000Z-00000000"
LAYOUT = RowLayout(heads=4, width=32, attention_width=32, dtype="float16", tag=release_tag(RELEASE))
NUM_CANDIDATES = 1000


def main() -> int:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "num_items": arguments.items,
        "num_candidates": NUM_CANDIDATES,
        "row_size_bytes": LAYOUT.row_size,
    }
    with tempfile.TemporaryDirectory() as folder:
        result["local_us"] = _local(Path(folder), arguments.items, arguments.repeats)
        table = LocalTable(Path(folder) / "integers", LAYOUT)
        # Not on the command line, which is written into the result: a URL may hold a password.
        for name, variable in (("redis_us", "BENCHMARK_REDIS_URL"), ("cluster_us", "BENCHMARK_CLUSTER_URL")):
            if url := os.environ.get(variable):
                options = RedisOptions(url, cluster=name == "cluster_us", timeout_s=30)
                result[name] = asyncio.run(_redis(options, table, arguments.repeats))
    write_result("embedding_store", result, "numpy", "redis", "hiredis")
    return 0


def _local(folder: Path, num_items: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    numbers = rng.choice(10**9, num_items, replace=False)
    texts = [f"item-{number:09d}" for number in numbers]
    values = rng.standard_normal((4096, 4, 32)).astype(np.float32)

    def compute(rows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
        return dict.fromkeys(ARRAYS, values[: len(rows)])

    write_table(folder / "integers", numbers, compute, LAYOUT)
    write_table(folder / "strings", texts, compute, LAYOUT)
    integers, strings = (LocalTable(folder / name, LAYOUT) for name in ("integers", "strings"))
    # Another thousand ids each time: a request finds the processor's caches full of other things.
    wanted = rng.integers(0, num_items, (repeats, NUM_CANDIDATES))
    raw, out = integers.fetch(numbers[wanted[0]].tolist()).raw, LAYOUT.empty(NUM_CANDIDATES)
    stored = [row.tobytes() for row in raw]
    as_numbers = [numbers[rows].tolist() for rows in wanted]
    as_texts = [[str(one) for one in ids] for ids in as_numbers]
    as_names = [[f"item-{one:09d}" for one in ids] for ids in as_numbers]
    return _in_turns(
        {
            "find: integers in an integer table": lambda turn: integers.find(as_numbers[turn]),
            "find: strings in an integer table": lambda turn: integers.find(as_texts[turn]),
            "find: strings in a string table": lambda turn: strings.find(as_names[turn]),
            "fetch: integers, rows copied and tags checked": lambda turn: integers.fetch(as_numbers[turn]),
            "fetch: strings, rows copied and tags checked": lambda turn: strings.fetch(as_names[turn]),
            "decode into kept arrays": lambda turn: LAYOUT.decode(raw, out),
            "decode into new arrays": lambda turn: LAYOUT.decode(raw),
            "decode by numpy's astype": lambda turn: [
                raw[:, part].view("<f2").astype(np.float32) for part in LAYOUT.slices().values()
            ],
            "decode_values: 1,000 byte strings to rows": lambda turn: LAYOUT.decode_values(stored),
        },
        repeats,
    )


def _in_turns(calls: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Median microseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call(turn)
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


async def _redis(options: RedisOptions, table: LocalTable, repeats: int) -> dict[str, float]:
    manifest = Manifest.model_validate(
        {
            "model": "benchmark", "release": RELEASE, "tag": release_tag(RELEASE).hex(),
            "created": "2000-01-01T00:00:00Z", "tau": 1.0, "training_run_id": "", "data_id": "", "files": {},
            "shape": {"num_user_heads": 4, "num_item_heads": 4, "width": 32, "attention_width": 32},
            "num_users": 0, "num_items": len(table),
        }
    )  # fmt: skip
    start = time.perf_counter()
    with RedisWriter(options, manifest) as writer:
        writer.write_table("item", table)
    written_s = time.perf_counter() - start
    ids = table.ids_at(np.random.default_rng(1).integers(0, len(table), NUM_CANDIDATES))
    keys = [row_key_prefix("benchmark", RELEASE, "item") + one.encode() for one in ids]
    store = RedisStore(options, manifest)
    kind = redis.asyncio.cluster.RedisCluster if options.cluster else redis.asyncio.Redis
    client: Any = kind.from_url(options.url)
    plain = client.mget_nonatomic if options.cluster else client.mget
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "fetch: 1,000 ids": lambda: store.fetch("item", ids, timeout_s=10),
        "fetch: 1 id": lambda: store.fetch("item", ids[:1], timeout_s=10),
        f"redis-py's own {plain.__name__}: 1,000 keys": lambda: plain(keys),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            await call()
            times[name].append((time.perf_counter() - start) * 1e6)
    await client.aclose()
    await store.close()
    delete_release(options, "benchmark", RELEASE)
    medians = {name: round(statistics.median(values), 1) for name, values in times.items()}
    return medians | {"rows written a second": round(len(table) / written_s)}


if __name__ == "__main__":
    raise SystemExit(main())
