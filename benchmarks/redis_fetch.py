"""The Redis path: our fetch against a bare MGET, and rows with projections against raw multi-embeddings.

Run: ``python benchmarks/redis_fetch.py``. Needs a redis-server and two cores: this process has one, Redis the other.
A fetch is one user and 1,000 items, other ones each time; all calls are made in turns by one process on uvloop, and
wall and processor time of each are taken. What decides between the kinds of rows is the sum of reading, decoding and
scoring them. A cluster of three masters is measured too. The result goes to
``benchmarks/results/redis_fetch-<date>.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import redis
import redis.asyncio
import redis.asyncio.cluster
import torch
import uvloop
from redis_run import RunningRedis, fill_redis, redis_cluster, redis_server
from result_file import write_result
from service_run import SETUPS, Release, add_core_options, process_cpu_s, reference, take_cores
from timing import in_turns, summary

from ranktower.embedding_store.codec import SIDES, RowLayout, Side
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.redis import RedisStore, row_key_prefix
from ranktower.embedding_store.redis_client import KeyReader, RedisOptions, open_reader
from ranktower.release import TABLES
from service.scorer import Scorer

AsyncCalls = dict[str, Callable[[int], Awaitable[Any]]]
RAW, PROJECTED = "raw multi-embeddings", "rows with projections"
_NUM_REQUESTS = 100
_TIMEOUT_S = 10.0
_BATCH_ROWS = 1000


class Requests:
    """Ids and keys of ``_NUM_REQUESTS`` requests over a release."""

    def __init__(self, release: Release, num_candidates: int) -> None:
        generator = np.random.default_rng(0)
        tables = {side: LocalTable(release.folder / TABLES[side], release.manifest.layout(side)) for side in SIDES}
        self.users = tables["user"].ids_at(generator.integers(0, len(tables["user"]), _NUM_REQUESTS))
        drawn = generator.integers(0, len(tables["item"]), (_NUM_REQUESTS, num_candidates))
        self.items = [tables["item"].ids_at(rows) for rows in drawn]
        user, item = (_prefix(release, side) for side in SIDES)
        prefixes = {RAW: item, PROJECTED: projected_prefix(release)}
        self._keys = {
            kind: [
                [user + one.encode(), *(prefix + each.encode() for each in items)]
                for one, items in zip(self.users, self.items, strict=True)
            ]
            for kind, prefix in prefixes.items()
        }

    def keys(self, turn: int, kind: str = RAW) -> list[bytes]:
        """The user's key, then the items'."""
        return self._keys[kind][turn % _NUM_REQUESTS]


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=500)
    add_core_options(parser)
    options = parser.parse_args()
    take_cores(options)
    torch.set_num_threads(1)
    release = reference(SETUPS["Redis"], num_users=options.rows, num_items=options.rows)
    requests = Requests(release, options.candidates)
    settings = {"num_rows": options.rows, "num_candidates": options.candidates, "repeats": options.repeats}
    settings |= {"server_core": options.server_core, "redis_core": options.generator_core}
    with redis_server(core=options.generator_core) as server:
        figures = settings | {"row_bytes": _row_bytes(release), "redis_bytes_a_row": fill_both_kinds(release, server)}
        os.sched_setaffinity(0, {options.server_core})
        times = uvloop.run(_fetches(release, server, requests, options.repeats))
        figures |= {"fetch": times, "of_redis": _server_side(server, requests, options.repeats)}
        figures["rows"] = {
            kind: _after_reading(release, server, requests, kind, options.repeats) for kind in (RAW, PROJECTED)
        }
    figures["ratio_to_mget"] = _ratios(times, "fetch_both", "redis-py's MGET of the same keys")
    with redis_cluster(core=options.generator_core) as url:
        fill_redis(release, url, cluster=True)
        figures["cluster"] = uvloop.run(_cluster(release, url, requests, options.repeats))
    write_result("redis_fetch", figures, "numpy", "onnxruntime", "redis", "hiredis", "uvloop")


def _prefix(release: Release, side: Side) -> bytes:
    return row_key_prefix(release.manifest.model, release.manifest.release, side)


def projected_prefix(release: Release) -> bytes:
    """Of keys that only this benchmark writes; as long as the items' own."""
    return _prefix(release, "item").replace(b":i:", b":p:")


def _row_bytes(release: Release) -> dict[str, int]:
    return {kind: layout.row_size for kind, layout in _layouts(release).items()}


def _layouts(release: Release) -> dict[str, RowLayout]:
    return {RAW: release.manifest.redis_layout("item"), PROJECTED: release.manifest.layout("item")}


def fill_both_kinds(release: Release, server: RunningRedis) -> dict[str, float]:
    """Write both kinds; gives Redis's memory a row of each, its key and what Redis adds included."""
    empty = server.info("used_memory")
    fill_redis(release, server.url)
    raw = server.info("used_memory")
    table = LocalTable(release.folder / TABLES["item"], release.manifest.layout("item"))
    prefix = projected_prefix(release)
    with redis.Redis.from_url(server.url) as client:
        for ids, rows in table.batches(_BATCH_ROWS):
            client.mset({prefix + one.encode(): row.tobytes() for one, row in zip(ids, rows, strict=True)})
    both = server.info("used_memory")
    rows_written = release.manifest.num_users + release.manifest.num_items
    return {RAW: round((raw - empty) / rows_written, 1), PROJECTED: round((both - raw) / len(table), 1)}


async def _fetches(
    release: Release, server: RunningRedis, requests: Requests, repeats: int
) -> dict[str, dict[str, float]]:
    options = RedisOptions(server.url)
    store, reader = RedisStore(options, release.manifest), open_reader(options)
    # As our own client is set up: the older protocol is the faster one.
    client: Any = redis.asyncio.Redis.from_url(server.url, protocol=2)
    calls: AsyncCalls = {
        "fetch_both": lambda turn: _fetch_both(store, requests, turn),
        "redis-py's MGET of the same keys": lambda turn: client.mget(requests.keys(turn)),
        "our MGET of the same keys": lambda turn: reader.mget(requests.keys(turn)),
        f"redis-py's MGET, {PROJECTED}": lambda turn: client.mget(requests.keys(turn, PROJECTED)),
        f"our MGET, {PROJECTED}": lambda turn: reader.mget(requests.keys(turn, PROJECTED)),
    }
    times = await _async_turns(calls, repeats)
    await client.aclose()
    await reader.close()
    await store.close()
    return times


async def _fetch_both(store: RedisStore, requests: Requests, turn: int) -> None:
    number = turn % _NUM_REQUESTS
    user, items = await store.fetch_both(requests.users[number], requests.items[number], timeout_s=_TIMEOUT_S)
    if not user.present.all() or not items.present.all():
        raise RuntimeError("a row was not found")


async def _async_turns(calls: AsyncCalls, repeats: int) -> dict[str, dict[str, float]]:
    """As ``in_turns``, and the processor time of this process beside the wall time."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
            await call(turn)
            if turn >= 2:
                wall[name].append((time.perf_counter_ns() - start) / 1e3)
                cpu[name].append((time.process_time_ns() - cpu_start) / 1e3)
    return {name: summary(wall[name]) | {"cpu_us": summary(cpu[name])["median_us"]} for name in calls}


def _ratios(times: dict[str, dict[str, float]], ours: str, bare: str) -> dict[str, float]:
    return {key: round(times[ours][key] / times[bare][key], 2) for key in ("median_us", "cpu_us")}


def _server_side(server: RunningRedis, requests: Requests, repeats: int) -> dict[str, dict[str, float]]:
    """Processor time of redis-server and bytes that it was sent and sends, a fetch."""
    figures = {}
    with redis.Redis.from_url(server.url) as client:
        for kind in (RAW, PROJECTED):
            before = process_cpu_s(server.pid)
            received, sent = server.info("total_net_input_bytes"), server.info("total_net_output_bytes")
            for turn in range(repeats):
                client.mget(requests.keys(turn, kind))
            figures[kind] = {
                "cpu_us": round((process_cpu_s(server.pid) - before) / repeats * 1e6, 1),
                "bytes_received": round((server.info("total_net_input_bytes") - received) / repeats),
                "bytes_sent": round((server.info("total_net_output_bytes") - sent) / repeats),
            }
    return figures


def _after_reading(
    release: Release, server: RunningRedis, requests: Requests, kind: str, repeats: int
) -> dict[str, float]:
    """Median microseconds of decoding and of scoring what an MGET gave."""
    layout, users = _layouts(release)[kind], release.manifest.redis_layout("user")
    scorer = Scorer(release.folder, release.manifest, [layout.kind])
    with redis.Redis.from_url(server.url) as client:
        answers: list[Any] = [client.mget(requests.keys(turn, kind)) for turn in range(20)]
    user = users.decode_values(answers[0][:1]).raw
    decoded = [layout.decode_values(answer[1:]).raw for answer in answers]
    times = in_turns(
        {
            "decode": lambda turn: layout.decode_values(answers[turn % 20][1:]),
            "score": lambda turn: scorer.score(user, layout, decoded[turn % 20]),
        },
        repeats,
    )
    return {f"{name}_us": of["median_us"] for name, of in times.items()}


async def _cluster(release: Release, url: str, requests: Requests, repeats: int) -> dict[str, dict[str, float]]:
    options = RedisOptions(url, cluster=True)
    store = RedisStore(options, release.manifest)
    reader: KeyReader = open_reader(options)
    client: Any = redis.asyncio.cluster.RedisCluster.from_url(url)
    calls: AsyncCalls = {
        "fetch_both": lambda turn: _fetch_both(store, requests, turn),
        "redis-py's mget_nonatomic": lambda turn: client.mget_nonatomic(requests.keys(turn)),
        "our GETs, a message to each node": lambda turn: reader.mget(requests.keys(turn)),
    }
    times = await _async_turns(calls, repeats)
    await client.aclose()
    await reader.close()
    await store.close()
    return times


if __name__ == "__main__":
    main()
