"""The options by which a job also writes to Redis. Its URL comes from the environment alone: it may hold a password."""

from __future__ import annotations

import argparse
import os

from ranktower.embedding_store.redis import write_pointer
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.errors import ConfigError, RankTowerError
from ranktower.registry import Pointer

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


def point_redis_at(redis: RedisOptions | None, model: str, pointer: Pointer) -> None:
    """Set the pointer in Redis to what the registry's file says by now.

    Raises:
        RankTowerError: Redis does not answer, or does not hold the whole release; says how to go on.
    """
    if redis is None:
        return
    try:
        write_pointer(redis, model, pointer)
    except RankTowerError as error:
        raise RankTowerError(
            f"{error}; the registry serves {pointer.release} by now, Redis does not: "
            f"mend it and run 'ranktower promote --store redis --release {pointer.release}'"
        ) from error
