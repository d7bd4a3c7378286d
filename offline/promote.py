"""``ranktower promote``: serve a published release from now on; running services follow within a second."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from offline.redis_target import add_redis_options, move_pointer, redis_options
from ranktower.errors import ReleaseError
from ranktower.registry import Registry


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower promote", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument("--release", help="the latest published one where left out")
    add_redis_options(parser)
    options = parser.parse_args(argv)
    redis = redis_options(options)
    registry = Registry(options.registry)
    published = registry.releases(options.model)
    if not published:
        raise ReleaseError(f"model {options.model!r}: no release is published in {options.registry}")
    model, release = options.model, options.release or published[-1]
    pointer = move_pointer(registry, redis, model, lambda own: own.promote(model, release), to=(model, release))
    sys.stdout.write(f"promote: {model} serves {pointer.release}\n")
    return 0
