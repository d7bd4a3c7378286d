"""Real servers, alone and as a cluster, filled and gone afterwards."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from redis_fetch import PROJECTED, RAW, Requests, fill_both_kinds
from redis_run import fill_redis, redis_cluster, redis_server
from reference_release import build_reference_release
from service_run import Release

from ranktower.embedding_store.redis import RedisStore
from ranktower.embedding_store.redis_client import RedisOptions, open_reader


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("release")
    return Release(root, build_reference_release(root, num_users=50, num_items=200))


def test_the_benchmarks_keys_hold_both_kinds_of_rows(release: Release) -> None:
    requests = Requests(release, 20)
    with redis_server() as server:
        memory = fill_both_kinds(release, server)

        async def sizes(kind: str) -> set[int]:
            reader = open_reader(RedisOptions(server.url))
            values = await reader.mget(requests.keys(3, kind))
            await reader.close()
            return {len(value) for value in values[1:] if value is not None}

        assert asyncio.run(sizes(RAW)) == {264}
        assert asyncio.run(sizes(PROJECTED)) == {1288}
        assert memory[PROJECTED] > memory[RAW] > 264
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_cluster_serves_the_whole_release(release: Release) -> None:
    requests = Requests(release, 20)
    with redis_cluster(core=min(os.sched_getaffinity(0))) as url:
        fill_redis(release, url, cluster=True)

        async def fetch() -> bool:
            store = RedisStore(RedisOptions(url, cluster=True), release.manifest)
            user, items = await store.fetch_both(requests.users[0], requests.items[0], timeout_s=10)
            await store.close()
            return bool(user.present.all() and items.present.all())

        assert asyncio.run(fetch())
