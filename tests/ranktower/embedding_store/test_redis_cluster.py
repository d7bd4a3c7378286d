"""The store on a real six-node cluster: rows in every slot, a slot on the move, a node that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from redis.crc import key_slot

from ranktower.embedding_store.protocol import StoreUnavailableError
from ranktower.embedding_store.redis import RedisStore, RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import PointerWatch, delete_release, read_pointer, write_pointer
from ranktower.errors import ConfigError
from ranktower.pointer import Pointer
from ranktower.release import Manifest

Arrays = dict[str, NDArray[np.float32]]
MakeArrays = Callable[..., Arrays]
WriteItems = Callable[..., None]


@pytest.fixture
def options(redis_cluster: Any) -> RedisOptions:
    return RedisOptions(redis_cluster.url, cluster=True)


@pytest.fixture
async def store(options: RedisOptions, manifest: Manifest) -> AsyncIterator[RedisStore]:
    store = RedisStore(options, manifest)
    yield store
    await store.close()


async def test_rows_of_all_nodes_come_back_in_the_order_of_the_request(
    store: RedisStore, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 300)
    write_items(options, manifest, list(range(300)), arrays)
    await store.ping()
    assert await store.is_complete()
    wanted = [*range(299, -1, -1), "nobody", "a\0", 7, "7"]
    found = await store.fetch("item", wanted, timeout_s=5.0)
    assert found.present.tolist() == 300 * [True] + [False, False, True, True]
    expected = arrays["embedding"][[*range(299, -1, -1), 7, 7]]
    np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], expected)
    assert not (await store.fetch("user", [1, 2], timeout_s=5.0)).present.any()


async def test_a_user_and_its_candidates_come_together_from_all_nodes(
    store: RedisStore, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    user_layout, layout = manifest.redis_layout("user"), manifest.redis_layout("item")
    users, items = random_arrays(user_layout, 1, seed=1), random_arrays(layout, 100)
    with RedisWriter(options, manifest) as writer:
        writer.write("user", ["u"], user_layout.encode(users))
    write_items(options, manifest, list(range(100)), items)
    user, found = await store.fetch_both("u", [*range(99, -1, -1), "nobody"], timeout_s=5.0)
    np.testing.assert_array_equal(user_layout.decode(user.raw)["embedding"], users["embedding"])
    assert found.present.tolist() == 100 * [True] + [False]
    np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], items["embedding"][::-1])


async def test_each_node_is_asked_once(
    store: RedisStore, redis_cluster: Any, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays
) -> None:
    layout = manifest.redis_layout("item")
    with RedisWriter(options, manifest) as writer:
        writer.write("item", list(range(300)), layout.encode(random_arrays(layout, 300)))
    await store.fetch("item", [1], timeout_s=5.0)
    masters = redis_cluster.masters()
    assert len(masters) == 3
    for master in masters:
        master.command("config", "resetstat")
    assert (await store.fetch("item", list(range(300)), timeout_s=5.0)).present.all()
    gets = [_calls(master, "get") for master in masters]
    assert sum(gets) == 300
    assert min(gets) > 50  # every node has its share
    for server in redis_cluster.servers:
        assert _calls(server, "cluster|slots") == 0  # the map of the slots is not asked for again


def _calls(server: Any, command: str) -> int:
    with redis.Redis(port=server.port) as client:
        return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_values_that_are_no_rows_are_rejected(
    store: RedisStore, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    write_items(options, manifest, ["good"], random_arrays(manifest.redis_layout("item"), 1))
    prefix = f"ranktower:demo:{manifest.release}:i:"
    with redis.RedisCluster.from_url(options.url) as client:
        client.set(prefix + "short", b"x")
        client.set(prefix + "untagged", bytes(manifest.redis_layout("item").row_size))
        client.rpush(prefix + "list", "not a string")
    found = await store.fetch("item", ["short", "absent", "good", "list", "untagged"], timeout_s=5.0)
    assert found.present.tolist() == [False, False, True, False, False]
    assert found.num_rejected == 3


async def test_many_requests_at_once_never_mix_their_answers(
    store: RedisStore, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 200)
    write_items(options, manifest, list(range(200)), arrays)
    gave_up = 0

    async def one(seed: int) -> None:
        nonlocal gave_up
        ids = np.random.default_rng(seed).integers(0, 200, size=20)
        hurried = seed % 3 == 0
        try:
            found = await store.fetch("item", ids.tolist(), timeout_s=0.01 if hurried else 20.0)
        except StoreUnavailableError:
            if not hurried:
                raise
            gave_up += 1
            return
        np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], arrays["embedding"][ids])

    await asyncio.gather(*(one(seed) for seed in range(300)))
    assert gave_up > 0


async def test_a_slot_on_the_move(
    store: RedisStore, redis_cluster: Any, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays,
    write_items: WriteItems,
) -> None:  # fmt: skip
    """While a slot moves, some of its keys are answered with ASK; afterwards all with MOVED."""
    arrays = random_arrays(manifest.redis_layout("item"), 40)
    ids = [f"{{same slot}}{number}" for number in range(40)]
    write_items(options, manifest, ids, arrays)
    before = await store.fetch("item", ids, timeout_s=5.0)
    prefix = f"ranktower:demo:{manifest.release}:i:"
    slot = str(key_slot(f"{prefix}{ids[0]}".encode()))
    masters = {master.command("cluster", "myid"): master for master in redis_cluster.masters()}
    source = next(node for node in masters if masters[node].command("cluster", "countkeysinslot", slot) != "0")
    target = next(node for node in masters if node != source)
    masters[target].command("cluster", "setslot", slot, "importing", source)
    masters[source].command("cluster", "setslot", slot, "migrating", target)
    moved = [prefix + one for one in ids[:15]]
    masters[source].command("migrate", "127.0.0.1", str(masters[target].port), "", "0", "5000", "keys", *moved)
    halfway = await store.fetch("item", [*ids, "{same slot}absent"], timeout_s=5.0)
    assert halfway.present.tolist() == 40 * [True] + [False]
    np.testing.assert_array_equal(halfway.raw, before.raw)
    rest = [prefix + one for one in ids[15:]]
    masters[source].command("migrate", "127.0.0.1", str(masters[target].port), "", "0", "5000", "keys", *rest)
    for node in (target, source, *masters):
        masters[node].command("cluster", "setslot", slot, "node", target)
    after = await store.fetch("item", ids, timeout_s=5.0)
    np.testing.assert_array_equal(after.raw, before.raw)


async def test_pointer_and_deletion(
    options: RedisOptions, make_manifest: Callable[..., Manifest], release_ids: Iterator[str],
    random_arrays: MakeArrays, write_items: WriteItems,
) -> None:  # fmt: skip
    old, new = (make_manifest(model="clustered", release=next(release_ids)) for _ in range(2))
    for manifest in (old, new):
        write_items(options, manifest, list(range(500)), random_arrays(manifest.redis_layout("item"), 500))
    write_pointer(options, "clustered", Pointer(release=new.release))
    assert read_pointer(options, "clustered") == Pointer(release=new.release)
    watch = PointerWatch(options, "clustered")
    assert await watch.read() == Pointer(release=new.release)
    await watch.close()
    assert delete_release(options, "clustered", old.release) == 500
    store = RedisStore(options, new)
    assert (await store.fetch("item", list(range(500)), timeout_s=5.0)).present.all()
    await store.close()


def test_a_cluster_is_not_reached_by_a_unix_socket(manifest: Manifest) -> None:
    with pytest.raises(
        ConfigError, match=r"^store url: a cluster is not reached by a unix socket \(/run/redis\.sock\)$"
    ):
        RedisStore(RedisOptions("unix:///run/redis.sock", cluster=True), manifest)


async def test_a_cluster_that_is_down_is_an_error_at_once(manifest: Manifest) -> None:
    store = RedisStore(RedisOptions("redis://127.0.0.1:1", cluster=True), manifest)
    start = time.perf_counter()
    with pytest.raises(StoreUnavailableError, match=r"^redis 127\.0\.0\.1:1: connection: ") as caught:
        await store.fetch("item", [1], timeout_s=2.0)
    assert caught.value.kind == "connection"
    assert time.perf_counter() - start < 1.0
    await store.close()


async def test_a_server_that_is_no_cluster(redis_server: Any, manifest: Manifest) -> None:
    store = RedisStore(RedisOptions(redis_server.url, cluster=True), manifest)
    with pytest.raises(StoreUnavailableError, match="luster"):
        await store.fetch("item", [1], timeout_s=2.0)
    await store.close()


async def test_refused_credentials(start_redis: Callable[..., Any], manifest: Manifest) -> None:
    server = start_redis("--requirepass", "secret", "--cluster-enabled", "yes")
    store = RedisStore(RedisOptions(f"redis://:wr0ng@127.0.0.1:{server.port}", cluster=True), manifest)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.fetch("item", [1], timeout_s=2.0)
    assert caught.value.kind == "auth"
    assert "wr0ng" not in str(caught.value)
    await store.close()


async def test_a_refused_key_does_not_leave_answers_behind(
    redis_cluster: Any, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 3)
    ids = ["{slot}secret", "{slot}a", "{slot}b"]
    write_items(options, manifest, ids, arrays)
    user = ["acl", "setuser", "partial", "on", ">pw", f"~ranktower:demo:{manifest.release}:i:{{slot}}?", "+@all"]
    for server in redis_cluster.servers:
        assert server.command(*user) == "OK"
    url = options.url.replace("redis://", "redis://partial:pw@")
    store = RedisStore(RedisOptions(url, cluster=True, max_connections=1), manifest)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            await store.fetch("item", ids, timeout_s=5.0)
        assert caught.value.kind == "auth"
        found = await store.fetch("item", ids[:0:-1], timeout_s=5.0)
        np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], arrays["embedding"][:0:-1])
    await store.close()


async def test_a_master_that_fails_is_replaced(
    store: RedisStore, redis_cluster: Any, options: RedisOptions, manifest: Manifest, random_arrays: MakeArrays,
    write_items: WriteItems,
) -> None:  # fmt: skip
    """The last test here: it leaves the cluster whole, but with another master."""
    ids = list(range(60))
    write_items(options, manifest, ids, random_arrays(manifest.redis_layout("item"), 60))
    before = await store.fetch("item", ids, timeout_s=5.0)
    for master in redis_cluster.masters():
        assert int(master.command("wait", "1", "5000")) >= 1  # the replica has the rows
    victim = redis_cluster.masters()[0]
    victim.stop()
    deadline = time.monotonic() + 40
    num_failed = 0
    while True:
        start = time.perf_counter()
        try:
            after = await store.fetch("item", ids, timeout_s=1.0)
            break
        except StoreUnavailableError as error:
            num_failed += 1
            took_s, kind = time.perf_counter() - start, error.kind
        assert took_s < 1.5
        assert kind in {"connection", "timeout", "protocol"}
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert num_failed > 0
    np.testing.assert_array_equal(after.raw, before.raw)
    victim.start()
