"""The options by which a job also writes to Redis. Its URL comes from the environment alone: it may hold a password."""

from __future__ import annotations

import argparse
import os

from ranktower.embedding_store.redis import check_complete, write_pointer
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.errors import ConfigError, RankTowerError
from ranktower.registry import Pointer, Registry

REDIS_URL = "RANKTOWER_STORE__REDIS_URL"


def add_redis_options(parser: argparse.ArgumentParser) -> None:
    """``--store`` and ``--redis-cluster``."""
    parser.add_argument("--store", choices=("local", "redis"), default="local", help="redis: write there too")
    parser.add_argument("--redis-cluster", action="store_true", help=f"{REDIS_URL} is a cluster's")


def redis_options(options: argparse.Namespace) -> RedisOptions | None:
    """How to reach Redis, None where it was not asked for.

    Raises:
        ConfigError: it was, and the environment names no URL.
    """
    if options.store != "redis":
        return None
    url = os.environ.get(REDIS_URL, "")
    if not url:
        raise ConfigError(f"--store redis: {REDIS_URL} is not set")
    return RedisOptions(url, cluster=options.redis_cluster)


def move_pointer(registry: Registry, redis: RedisOptions | None, model: str, release: str | None) -> Pointer:
    """Promote ``release``, or roll back where it is None, in the registry and then in Redis.

    Redis is asked whether it holds the release before anything moves.

    Raises:
        ReleaseError: the release is not published, damaged, or not complete in Redis; nothing has moved.
        RankTowerError: Redis failed in between; says what is served where, and how to go on.
    """
    before = registry.current(model)
    target = release or (before.previous[0] if before and before.previous else None)
    if redis is not None and target is not None:
        check_complete(redis, model, target)
    pointer = registry.promote(model, release) if release else registry.rollback(model)
    if redis is not None:
        try:
            write_pointer(redis, model, pointer)
        except RankTowerError as error:
            raise RankTowerError(
                f"{error}; the registry serves {pointer.release} by now, Redis does not: "
                f"mend it and run 'ranktower promote --store redis --release {pointer.release}'"
            ) from error
    return pointer
