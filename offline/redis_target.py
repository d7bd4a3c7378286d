"""How a job also writes to Redis. Its URL and password come from the environment alone, by the service's names."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from offline.row_bar import row_bar
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions, read_password
from ranktower.embedding_store.redis_releases import check_complete, write_pointer
from ranktower.errors import ConfigError, RankTowerError
from ranktower.pointer import Pointer
from ranktower.registry import Registry
from ranktower.release import TABLES, Manifest

REDIS_URL = "RANKTOWER_STORE__REDIS_URL"
REDIS_PASSWORD_FILE = "RANKTOWER_STORE__REDIS_PASSWORD_FILE"
REDIS_CLUSTER = "RANKTOWER_STORE__REDIS_CLUSTER"


def add_redis_options(parser: argparse.ArgumentParser) -> None:
    """``--store`` and ``--redis-cluster``."""
    parser.add_argument("--store", choices=("local", "redis"), default="local", help="redis: write there too")
    parser.add_argument("--redis-cluster", action="store_true", help=f"a cluster's URL; also {REDIS_CLUSTER}=true")


def redis_options(options: argparse.Namespace) -> RedisOptions | None:
    """How to reach Redis, None where it was not asked for.

    Raises:
        ConfigError: it was, and the environment names no URL, or a password file without a password.
    """
    if options.store != "redis":
        return None
    url = os.environ.get(REDIS_URL, "")
    if not url:
        raise ConfigError(f"--store redis: {REDIS_URL} is not set")
    file = os.environ.get(REDIS_PASSWORD_FILE)
    try:
        password = read_password(Path(file)) if file else None
    except ConfigError as error:
        raise ConfigError(f"{REDIS_PASSWORD_FILE}: {error}") from None
    cluster = options.redis_cluster or os.environ.get(REDIS_CLUSTER, "").lower() in {"1", "true"}
    return RedisOptions(url, password, cluster=cluster)


def copy_to_redis(folder: Path, manifest: Manifest, options: RedisOptions) -> None:
    """All rows of a release into Redis; the key that makes them complete comes last."""
    with RedisWriter(options, manifest) as writer:
        if writer.is_complete():
            return
        for side, name in TABLES.items():
            table = LocalTable(folder / name, manifest.layout(side))
            with row_bar(f"redis {name}", len(table)) as bar:
                writer.write_table(side, table, on_batch=bar.update)
        writer.finish()


def move_pointer(
    registry: Registry,
    redis: RedisOptions | None,
    model: str,
    move: Callable[[Registry], Pointer],
    *,
    to: tuple[str, str] | None,
) -> Pointer:
    """Move the model's pointer in the registry, and then in Redis where there is one.

    Args:
        registry: where the pointer is.
        redis: where else it is.
        model: whose pointer.
        move: moves that of the registry.
        to: model and release that the pointer will name, None for no other than before. Redis must hold it.

    Raises:
        ReleaseError: the release is not published, damaged, or not complete in Redis; nothing has moved.
        RankTowerError: Redis failed in between; says how to go on.
    """
    if redis is not None and to is not None:
        check_complete(redis, *to)
    pointer = move(registry)
    if redis is not None:
        try:
            write_pointer(redis, model, pointer)
        except RankTowerError as error:
            raise RankTowerError(
                f"{error}; the registry's pointer has moved, the one in Redis has not: "
                f"mend it and run 'ranktower promote --store redis --release {pointer.release}'"
            ) from error
    return pointer
