"""Which releases a real Redis server holds, and its pointer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import (
    PointerWatch,
    delete_release,
    list_releases,
    read_pointer,
    write_pointer,
)
from ranktower.errors import ReleaseError
from ranktower.pointer import Pointer, Variation
from ranktower.release import Manifest

MakeArrays = Callable[..., dict[str, NDArray[np.float32]]]
WriteItems = Callable[..., None]


async def test_the_pointer(
    redis_server: Any, make_manifest: Callable[..., Manifest], release_ids: Iterator[str]
) -> None:
    options = RedisOptions(redis_server.url)
    first, second = (make_manifest(model="pointed", release=next(release_ids)) for _ in range(2))
    watch = PointerWatch(options, "pointed")
    assert read_pointer(options, "pointed") is None
    assert await watch.read() is None
    with pytest.raises(ReleaseError, match=rf"release '{first.release}' of model 'pointed' is not complete$"):
        write_pointer(options, "pointed", Pointer(release=first.release))
    for manifest in (first, second):
        with RedisWriter(options, manifest) as writer:
            writer.finish()
    pointer = Pointer(release=first.release).promoted(second.release)
    write_pointer(options, "pointed", pointer)
    assert read_pointer(options, "pointed") == pointer == Pointer(release=second.release, previous=(first.release,))
    assert await watch.read() == pointer
    assert "pointed:current" in redis_server.command("keys", "ranktower:pointed:current")
    redis_server.command("set", "ranktower:pointed:current", "nonsense")
    with pytest.raises(ReleaseError, match=r"^ranktower:pointed:current: not a pointer: .*got b'nonsense'$"):
        await watch.read()
    await watch.close()


async def test_a_release_is_deleted_and_no_other(
    redis_server: Any,
    make_manifest: Callable[..., Manifest],
    release_ids: Iterator[str],
    random_arrays: MakeArrays,
    write_items: WriteItems,
) -> None:
    options = RedisOptions(redis_server.url)
    old, new = (make_manifest(model="deleted", release=next(release_ids)) for _ in range(2))
    for manifest in (old, new):
        write_items(options, manifest, list(range(2500)), random_arrays(manifest.redis_layout("item"), 2500))
    write_pointer(options, "deleted", Pointer(release=new.release))
    assert list_releases(options, "deleted") == [old.release, new.release]
    with pytest.raises(ReleaseError, match=rf"release '{new.release}' of model 'deleted' is named by the pointer$"):
        delete_release(options, "deleted", new.release)
    assert delete_release(options, "deleted", old.release) == 2500
    assert delete_release(options, "deleted", old.release) == 0
    assert list_releases(options, "deleted") == [new.release]
    assert redis_server.command("keys", f"ranktower:deleted:{old.release}:*") == ""
    assert len(redis_server.command("keys", f"ranktower:deleted:{new.release}:*").split()) == 2501


@pytest.mark.parametrize("role", ["canary", "shadow", "previous"])
def test_what_the_pointer_names_besides_is_not_deleted(
    role: str, redis_server: Any, make_manifest: Callable[..., Manifest], release_ids: Iterator[str]
) -> None:
    options = RedisOptions(redis_server.url)
    current, other = (make_manifest(model="named", release=next(release_ids)) for _ in range(2))
    for manifest in (current, other):
        with RedisWriter(options, manifest) as writer:
            writer.finish()
    named = (other.release,) if role == "previous" else Variation(release=other.release, share=0.5)
    write_pointer(options, "named", Pointer.model_validate({"release": current.release, role: named}))
    with pytest.raises(ReleaseError, match="is named by the pointer"):
        delete_release(options, "named", other.release)
    write_pointer(options, "named", Pointer(release=current.release))
    delete_release(options, "named", other.release)
    assert other.release not in list_releases(options, "named")


def test_a_delete_that_was_killed_is_gone_on_with(
    redis_server: Any,
    make_manifest: Callable[..., Manifest],
    release_ids: Iterator[str],
    random_arrays: MakeArrays,
    write_items: WriteItems,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = RedisOptions(redis_server.url)
    manifest = make_manifest(model="half", release=next(release_ids))
    write_items(options, manifest, list(range(2500)), random_arrays(manifest.redis_layout("item"), 2500))
    unlink, calls = redis.Redis.unlink, []

    def fail_at_the_third(self: redis.Redis, *keys: bytes) -> Any:
        calls.append(keys)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return unlink(self, *keys)

    monkeypatch.setattr(redis.Redis, "unlink", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        delete_release(options, "half", manifest.release)
    monkeypatch.undo()
    left = redis_server.command("keys", f"ranktower:half:{manifest.release}:*").split()
    assert len(left) == 1501
    assert f"ranktower:half:{manifest.release}:manifest" not in left
    assert list_releases(options, "half") == [manifest.release]
    assert delete_release(options, "half", manifest.release) == 1500
    assert list_releases(options, "half") == []
    assert redis_server.command("keys", "ranktower:half:*") == ""


def test_ids_that_look_like_a_releases_own_keys_are_no_releases(
    redis_server: Any,
    make_manifest: Callable[..., Manifest],
    release_ids: Iterator[str],
    random_arrays: MakeArrays,
    write_items: WriteItems,
) -> None:
    options = RedisOptions(redis_server.url)
    manifest, other = (make_manifest(model="odd", release=next(release_ids)) for _ in range(2))
    ids = ["manifest", f"{other.release}:manifest", ":manifest", "x:deleting"]
    write_items(options, manifest, ids, random_arrays(manifest.redis_layout("item"), 4))
    redis_server.command("set", f"ranktower:odd:{'y' * 25}:manifest", "")
    assert list_releases(options, "odd") == [manifest.release]
    assert list_releases(options, "od") == []
