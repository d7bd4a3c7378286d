"""``ranktower gc``: what it says, and what it removes from a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline import gc
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions, open_sync_client
from ranktower.embedding_store.redis_releases import list_releases, write_pointer
from ranktower.errors import ConfigError
from ranktower.pointer import Pointer, Variation
from ranktower.registry import Registry, hold_release
from ranktower.release import Manifest

RELEASES = tuple(f"202611{day:02d}T100000Z-0123abcd" for day in range(1, 7))
MODEL = "collected"


@pytest.fixture
def manifests(tmp_path: Path, publish_small: Callable[..., Manifest]) -> dict[str, Manifest]:
    """Six published releases, the third one promoted."""
    published = {release: publish_small(tmp_path, release, model=MODEL) for release in RELEASES}
    Registry(tmp_path).promote(MODEL, RELEASES[2])
    return published


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    return ["--registry", str(tmp_path), "--model", MODEL]


def test_it_says_what_it_removes_and_what_it_leaves(
    manifests: dict[str, Manifest], place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(tmp_path)
    folder = registry.release_dir(MODEL, RELEASES[0])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert gc.main([*place, "--keep", "1", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert registry.releases(MODEL) == list(RELEASES)
    with hold_release(registry.release_dir(MODEL, RELEASES[3])):
        assert gc.main([*place, "--keep", "1"]) == 0
    gone = (RELEASES[0], RELEASES[1], RELEASES[4])
    assert capsys.readouterr().out.splitlines() == [
        *(f"gc: removed {release}, {size:,} bytes" for release in gone),
        f"gc: left {RELEASES[3]}, a process has it open",
        f"gc: {MODEL}: removed {3 * size:,} bytes",
    ]
    assert told.splitlines() == [
        *(f"gc: would remove {release}, {size:,} bytes" for release in sorted((*gone, RELEASES[3]))),
        f"gc: {MODEL}: would remove {4 * size:,} bytes, less what a process has open",
    ]
    assert registry.releases(MODEL) == [RELEASES[2], RELEASES[3], RELEASES[5]]


def test_keep_must_be_given_and_positive(manifests: dict[str, Manifest], place: list[str]) -> None:
    with pytest.raises(SystemExit):
        gc.main(place)
    with pytest.raises(ConfigError, match="--keep must be at least 1, got -2"):
        gc.main([*place, "--keep", "-2"])


def test_a_registry_without_the_model_empties_no_redis(
    tmp_path: Path,
    place: list[str],
    redis_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A registry of another place, or the first night of a new one: no failure, and nobody else's rows go."""
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    key = f"ranktower:{MODEL}:{RELEASES[0]}:i:1"
    redis_server.command("set", key, "a row")
    assert gc.main([*place, "--keep", "1", "--store", "redis"]) == 0
    told = f"gc: {MODEL}: no release is published in {tmp_path}, so there is nothing to do\n"
    assert capsys.readouterr().out == told
    assert redis_server.command("exists", key) == "1"
    redis_server.command("del", key)


def test_what_redis_serves_stays_in_the_registry_too(
    manifests: dict[str, Manifest],
    place: list[str],
    tmp_path: Path,
    redis_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promote that reached the registry alone: services that follow Redis still serve, and open, the old release."""
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    options = RedisOptions(redis_server.url)
    for release in (RELEASES[1], RELEASES[5]):
        with RedisWriter(options, manifests[release]) as writer:
            writer.finish()
    pointer = Pointer(release=RELEASES[1], previous=(RELEASES[0],), shadow=Variation(release=RELEASES[3], share=1))
    write_pointer(options, MODEL, pointer)
    assert gc.main([*place, "--keep", "1", "--store", "redis"]) == 0
    assert Registry(tmp_path).releases(MODEL) == [RELEASES[index] for index in (0, 1, 2, 3, 5)]
    assert list_releases(options, MODEL) == [RELEASES[1], RELEASES[5]]
    redis_server.command("flushdb")


def test_redis_keeps_what_is_published_begun_or_named_there(
    manifests: dict[str, Manifest],
    place: list[str],
    tmp_path: Path,
    redis_server: Any,
    make_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    options = RedisOptions(redis_server.url)
    names = [f"20261201T10000{digit}Z-0123abcd" for digit in range(5)]
    killed, begun, named, tried, shadowed = names
    manifests |= {release: make_manifest(model=MODEL, release=release) for release in names}
    for release, manifest in manifests.items():
        rows = manifest.redis_layout("item").encode({"embedding": np.ones((2, 3, 4), dtype=np.float32)})
        with RedisWriter(options, manifest) as writer:
            writer.write("item", ["a", "b"], rows)
            if release != killed:
                writer.finish()
    Registry(tmp_path).staging_dir(MODEL, begun).mkdir(parents=True)
    with open_sync_client(options) as client:
        client.hset(f"ranktower:{MODEL}:{killed}:progress", "item", 2)  # as its writer left it
    # Another host's pointers, say: Redis serves what this registry does not have.
    write_pointer(options, MODEL, Pointer(release=named, canary=Variation(release=tried, share=0.1)))
    (tmp_path / "borrower").mkdir()
    borrower = make_manifest(model="borrower", release=RELEASES[0])
    with RedisWriter(options, borrower) as writer:
        writer.finish()
    write_pointer(
        options, "borrower", Pointer(release=RELEASES[0], shadow=Variation(release=shadowed, share=1, model=MODEL))
    )
    command = [*place, "--keep", "2", "--store", "redis"]
    assert gc.main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert list_releases(options, MODEL) == sorted(manifests)
    assert gc.main(command) == 0
    gone = (RELEASES[0], RELEASES[1], RELEASES[3], killed)
    assert list_releases(options, MODEL) == sorted(manifests.keys() - set(gone))
    printed = capsys.readouterr().out
    for release in gone:
        assert f"gc: would remove {release} from Redis\n" in told
        assert f"gc: removed {release} from Redis, 2 keys\n" in printed
    assert list_releases(options, "borrower") == [RELEASES[0]]
    redis_server.command("flushdb")
