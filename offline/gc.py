"""``ranktower gc``: remove old releases, but none that is served, tried or kept for a rollback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from offline.redis_target import add_redis_options, redis_options
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import delete_release, list_releases, read_pointer
from ranktower.registry import STAGING, Registry
from ranktower.retention import collect


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    registry, model, redis = Registry(options.registry), options.model, redis_options(options)
    if not registry.releases(model):
        # Before the first release, or a registry of another place: then nothing that Redis holds is published here.
        sys.stdout.write(f"gc: {model}: no release is published in {options.registry}, so there is nothing to do\n")
        return 0
    also = named_in_redis(registry, redis, model) if redis is not None else ()
    collected = collect(registry, model, keep=options.keep, also=also, dry_run=options.dry_run)
    verb = "would remove" if options.dry_run else "removed"
    for removed in collected.removed:
        sys.stdout.write(f"gc: {verb} {removed.name}, {removed.size_bytes:,} bytes\n")
    for release in collected.held:
        sys.stdout.write(f"gc: left {release}, a process has it open\n")
    total = sum(removed.size_bytes for removed in collected.removed)
    unless = ", less what a process has open" if options.dry_run else ""
    sys.stdout.write(f"gc: {model}: {verb} {total:,} bytes{unless}\n")
    if redis is not None:
        gone = {removed.name for removed in collected.removed}
        for release in releases_to_delete(registry, redis, model, gone=gone):
            if options.dry_run:
                sys.stdout.write(f"gc: would remove {release} from Redis\n")
            else:
                num_keys = delete_release(redis, model, release)
                sys.stdout.write(f"gc: removed {release} from Redis, {num_keys:,} keys\n")
    return 0


def releases_to_delete(registry: Registry, redis: RedisOptions, model: str, *, gone: set[str]) -> list[str]:
    """Releases in Redis that nobody needs there.

    They are neither published, but for those in ``gone``, nor in the making, and no pointer in Redis names them.
    """
    found = list_releases(redis, model)  # first of all, for a release that comes in meanwhile is none of these
    staging = registry.root / model / STAGING
    begun = {path.name for path in staging.iterdir()} if staging.is_dir() else set()
    needed = ({*registry.releases(model)} - gone) | begun | named_in_redis(registry, redis, model)
    return [release for release in found if release not in needed]


def named_in_redis(registry: Registry, redis: RedisOptions, model: str) -> set[str]:
    """The releases of ``model`` that a pointer in Redis names: its own, or that of another model in the registry."""
    pointers = {owner: read_pointer(redis, owner) for owner in registry.models()}
    names = set().union(*(pointer.names(owner) for owner, pointer in pointers.items() if pointer is not None))
    return {release for whose, release in names if whose == model}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower gc", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument("--keep", type=int, required=True, help="how many of the latest releases stay in any case")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_redis_options(parser)
    return parser
