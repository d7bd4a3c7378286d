"""Rows, pointer and release in a real Redis server."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.overlay import OverlayPointer
from ranktower.embedding_store.redis import RedisStore, RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ReleaseError
from ranktower.release import Manifest, release_tag

Arrays = dict[str, NDArray[np.float32]]
MakeArrays = Callable[..., Arrays]
WriteItems = Callable[..., None]


async def test_fetch_gives_each_id_its_row(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 5)
    write_items(RedisOptions(redis_server.url), manifest, [12, "a", "é\n'\"", "{slot}x", -7], arrays)
    wanted = ["12", "nobody", "{slot}x", 12, "a\0", "", "é\n'\"", True, "\ud800", "012", -7, "a", 10**5000]
    found = await store.fetch("item", wanted, timeout_s=2.0)  # type: ignore[arg-type]
    expected = [one in ("12", "{slot}x", 12, "é\n'\"", -7, "a") and one is not True for one in wanted]
    assert found.present.tolist() == expected
    assert found.num_rejected == 0
    assert found.layout == layout
    decoded = layout.decode(found.raw)
    assert list(decoded) == ["embedding"]
    np.testing.assert_array_equal(decoded["embedding"], arrays["embedding"][[0, 3, 0, 2, 4, 1]])


async def test_users_and_items_have_keys_of_their_own(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays
) -> None:
    users = random_arrays(manifest.layout("user"), 1)
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write("user", [1], manifest.layout("user").encode(users))
    assert (await store.fetch("user", [1], timeout_s=2.0)).present.tolist() == [True]
    assert (await store.fetch("item", [1], timeout_s=2.0)).present.tolist() == [False]


async def test_the_times_of_rows(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    options = RedisOptions(redis_server.url)
    write_items(options, manifest, [12, "a", "odd"], random_arrays(layout, 3))
    with RedisWriter(options, manifest) as writer:
        raw = layout.encode(random_arrays(layout, 2, seed=1))
        writer.write("item", ["a", "new"], raw, times_s=np.array([1_900_000_000, 1_900_000_001]))
    with redis.Redis(port=redis_server.port) as client:
        assert client.get(f"ranktower:demo:{manifest.release}:it:new") == b"1900000001"
        client.set(f"ranktower:demo:{manifest.release}:it:odd", "yesterday")
        client.set(f"ranktower:demo:{manifest.release}:it:gone", "1900000002")
    times_s = await store.fetch_times("item", ["new", 12, "nobody", "", "a", "odd", "gone"], timeout_s=2.0)
    created_s = manifest.created.timestamp()
    expected = [1_900_000_001, created_s, np.nan, np.nan, 1_900_000_000, created_s, np.nan]
    np.testing.assert_array_equal(times_s, expected)
    assert (await store.fetch_times("user", ["a"], timeout_s=2.0)).tolist() == pytest.approx([np.nan], nan_ok=True)
    assert (await store.fetch_times("user", [], timeout_s=2.0)).tolist() == []


async def test_the_pointer_of_the_overlay(store: RedisStore, redis_server: Any, manifest: Manifest) -> None:
    assert await store.read_overlay_pointer() is None
    pointer = OverlayPointer(
        release=manifest.release, sequence=3, created_s=1_900_000_000, num_users=0, num_items=0, files={}
    )
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write_overlay_pointer(pointer)
    assert await store.read_overlay_pointer() == pointer
    redis_server.command("set", f"ranktower:demo:{manifest.release}:delta", "?")
    with pytest.raises(ReleaseError, match=rf"{manifest.release}:delta: not an overlay's pointer"):
        await store.read_overlay_pointer()


async def test_a_reader_without_project_code_reads_a_value(
    redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    arrays = random_arrays(manifest.redis_layout("item"), 1)
    write_items(RedisOptions(redis_server.url), manifest, ["shoe 42"], arrays)
    with redis.Redis(port=redis_server.port) as client:
        value = client.get(f"ranktower:demo:{manifest.release}:i:shoe 42")
    assert isinstance(value, bytes)
    tag, *numbers = struct.unpack("<8s12e", value)  # the multi-embedding of 3 heads x 4, and nothing behind it
    assert tag.hex() == manifest.tag
    np.testing.assert_array_equal(numbers, arrays["embedding"].ravel())


async def test_values_that_are_no_rows_are_rejected(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    write_items(RedisOptions(redis_server.url), manifest, ["good", "also"], random_arrays(layout, 2))
    row = layout.encode(random_arrays(layout, 1))[0].tobytes()
    prefix = f"ranktower:demo:{manifest.release}:i:"
    with redis.Redis(port=redis_server.port) as client:
        client.set(prefix + "short", row[:-1])
        client.set(prefix + "long", row + b"\0")
        client.set(prefix + "other", release_tag("20200101T000000Z-00000000") + row[8:])
        client.set(prefix + "empty", b"")
    ids = ["short", "good", "long", "absent", "other", "empty", "also"]
    found = await store.fetch("item", ids, timeout_s=2.0)
    assert found.present.tolist() == [False, True, False, False, False, False, True]
    assert len(found.raw) == 2
    assert found.num_rejected == 4


async def test_a_thousand_ids_take_one_command(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    arrays = random_arrays(manifest.redis_layout("item"), 1000)
    write_items(RedisOptions(redis_server.url), manifest, list(range(1000)), arrays)
    await store.fetch("item", [0], timeout_s=2.0)
    with redis.Redis(port=redis_server.port) as client:
        client.config_resetstat()
        assert (await store.fetch("item", list(range(999, -1, -1)), timeout_s=2.0)).present.all()
        statistics = client.info("commandstats")
    assert statistics["cmdstat_mget"]["calls"] == 1
    assert "cmdstat_get" not in statistics


async def test_a_user_and_its_candidates_take_one_command(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    user_layout, layout = manifest.redis_layout("user"), manifest.redis_layout("item")
    users, items = random_arrays(user_layout, 2, seed=1), random_arrays(layout, 100)
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write("user", [7, "u"], user_layout.encode(users))
    write_items(RedisOptions(redis_server.url), manifest, list(range(100)), items)
    await store.fetch("item", [0], timeout_s=2.0)
    with redis.Redis(port=redis_server.port) as client:
        client.config_resetstat()
        user, found = await store.fetch_both("7", [*range(99, -1, -1), "nobody", 7], timeout_s=2.0)
        statistics = client.info("commandstats")
    assert statistics["cmdstat_mget"]["calls"] == 1
    assert "cmdstat_get" not in statistics
    np.testing.assert_array_equal(user_layout.decode(user.raw)["embedding"], users["embedding"][:1])
    assert found.present.tolist() == [True] * 100 + [False, True]
    expected = items["embedding"][[*range(99, -1, -1), 7]]
    np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], expected)


@pytest.mark.parametrize(("user", "items"), [("", [1, 2]), ("nobody", ["", 1, "a\0"]), (5, []), ("x" * 257, ["\0"])])
async def test_a_user_and_candidates_of_which_some_cannot_be_ids(
    user: str | int, items: list[str | int], store: RedisStore, redis_server: Any, manifest: Manifest,
    random_arrays: MakeArrays, write_items: WriteItems,
) -> None:  # fmt: skip
    user_layout, layout = manifest.redis_layout("user"), manifest.redis_layout("item")
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write("user", [5], user_layout.encode(random_arrays(user_layout, 1)))
    write_items(RedisOptions(redis_server.url), manifest, [1], random_arrays(layout, 1))
    found_user, found_items = await store.fetch_both(user, items, timeout_s=2.0)
    assert (found_user.layout, found_items.layout) == (user_layout, layout)
    assert found_user.present.tolist() == [user == 5]
    assert found_items.present.tolist() == [one == 1 for one in items]
    assert found_user.num_rejected == found_items.num_rejected == 0


async def test_no_ids_and_only_impossible_ids_ask_nothing(manifest: Manifest) -> None:
    nowhere = RedisStore(RedisOptions("redis://127.0.0.1:1"), manifest)
    assert (await nowhere.fetch("item", [], timeout_s=0.1)).present.shape == (0,)
    found = await nowhere.fetch("item", ["", "a\0", "x" * 257], timeout_s=0.1)
    assert found.present.tolist() == [False, False, False]
    assert found.num_rejected == 0
    await nowhere.close()


@pytest.fixture
def table(tmp_path: Path, manifest: Manifest, random_arrays: MakeArrays) -> LocalTable:
    layout = manifest.layout("item")
    arrays = random_arrays(layout, 25)
    write_table(tmp_path, list(range(25)), lambda rows: {a: v[rows] for a, v in arrays.items()}, layout)
    return LocalTable(tmp_path, layout)


async def test_a_table_is_copied_and_the_release_declared_complete_last(
    store: RedisStore, redis_server: Any, manifest: Manifest, table: LocalTable
) -> None:
    told: list[int] = []
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write_table("item", table, batch_size=10, on_batch=told.append)
        assert told == [0, 10, 10, 5]
        assert not writer.is_complete()
        assert not await store.is_complete()
        writer.finish()
        assert writer.is_complete()
    assert await store.is_complete()
    ids = list(range(25))
    in_redis = (await store.fetch("item", ids, timeout_s=2.0)).raw
    # 8 bytes of the tag, 2 x 3 x 4 of the multi-embedding: the beginning of what the table holds.
    np.testing.assert_array_equal(in_redis, table.fetch(ids).raw[:, :32])
    keys = redis_server.command("keys", f"ranktower:demo:{manifest.release}:*").split()
    assert len(keys) == 26  # rows and manifest, nothing else


async def test_a_copy_that_was_interrupted_goes_on(
    store: RedisStore, redis_server: Any, manifest: Manifest, table: LocalTable
) -> None:
    class PulledPlugError(Exception):
        pass

    told: list[int] = []

    def pull_the_plug(num_rows: int) -> None:
        told.append(num_rows)
        if len(told) == 3:
            raise PulledPlugError

    with pytest.raises(PulledPlugError), RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write_table("item", table, batch_size=10, on_batch=pull_the_plug)
    again: list[int] = []
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        assert writer.rows_done("item") == 20
        assert not writer.is_complete()
        writer.write_table("item", table, batch_size=10, on_batch=again.append)
        writer.finish()
    assert again == [20, 5]
    ids = list(range(25))
    in_redis = (await store.fetch("item", ids, timeout_s=2.0)).raw
    # 8 bytes of the tag, 2 x 3 x 4 of the multi-embedding: the beginning of what the table holds.
    np.testing.assert_array_equal(in_redis, table.fetch(ids).raw[:, :32])


def test_writing_twice_changes_nothing(redis_server: Any, manifest: Manifest, table: LocalTable) -> None:
    def content() -> dict[bytes, Any]:
        with redis.Redis(port=redis_server.port) as client:
            return {key: client.get(key) for key in client.scan_iter(f"ranktower:demo:{manifest.release}:*")}

    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        writer.write_table("item", table)
        writer.finish()
        before = content()
        writer.write_table("item", table)
        writer.finish()
    assert content() == before


def test_the_writer_refuses_what_is_no_row_of_the_release(
    redis_server: Any, manifest: Manifest, random_arrays: MakeArrays
) -> None:
    layout = manifest.redis_layout("item")
    raw = layout.encode(random_arrays(layout, 2))
    projected = manifest.layout("item").encode(random_arrays(layout, 2))
    with RedisWriter(RedisOptions(redis_server.url), manifest) as writer:
        for wrong in (raw[:1], raw[:, :-1], np.zeros_like(raw), projected):
            with pytest.raises(ValueError, match=rf"^raw: not 2 item rows of release {manifest.release}$"):
                writer.write("item", [1, 2], wrong)
        with pytest.raises(ValueError, match=r"^ids: each must have 1 to 256 bytes and no NUL$"):
            writer.write("item", [1, "a\0"], raw)
