"""``ranktower rollback``: serve again the release that was served before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from offline.redis_target import add_redis_options, move_pointer, redis_options
from ranktower.registry import Registry


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower rollback", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    add_redis_options(parser)
    options = parser.parse_args(argv)
    registry, model = Registry(options.registry), options.model
    redis = redis_options(options)
    before = registry.current(model)
    to = (model, before.previous[0]) if before and before.previous else None
    pointer = move_pointer(registry, redis, model, lambda own: own.rollback(model), to=to)
    sys.stdout.write(f"rollback: {model} serves {pointer.release}\n")
    return 0
