"""``ranktower publish``: verify a precomputed release and move it into the registry, whole or not at all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ranktower.errors import ReleaseError
from ranktower.registry import STAGING, Registry
from ranktower.release import MANIFEST, check_model_name


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower publish", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument("--release", help="the latest precomputed one where left out")
    options = parser.parse_args(argv)
    registry = Registry(options.registry)
    release = options.release or latest_staged(registry, options.model)
    folder = registry.publish(registry.staging_dir(options.model, release))
    sys.stdout.write(f"publish: {folder}; now 'ranktower promote'\n")
    return 0


def latest_staged(registry: Registry, model: str) -> str:
    """The latest finished release in staging, else the latest published one.

    Raises:
        ReleaseError: there is neither.
    """
    staging = registry.root / check_model_name(model) / STAGING
    staged = sorted(path.parent.name for path in staging.glob(f"*/{MANIFEST}"))
    if staged:
        return staged[-1]
    published = registry.releases(model)
    if not published:
        raise ReleaseError(f"{staging}: no precomputed release; run 'ranktower precompute'")
    return published[-1]
