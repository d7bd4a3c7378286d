"""``ranktower canary`` and ``ranktower shadow``: try a second release beside the one that is served."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from offline.redis_target import add_redis_options, move_pointer, redis_options
from ranktower.errors import ConfigError
from ranktower.pointer import Variation, VariationRole
from ranktower.registry import Registry

_TEXTS: dict[VariationRole, tuple[str, str]] = {
    "canary": ("Answer a share of the users from a second release.", "part of the users"),
    "shadow": (
        "Score a share of the answers again with a second release, beside the requests, and report how they differ.",
        "part of the answers",
    ),
}


def canary(argv: Sequence[str]) -> int:
    """``ranktower canary``; returns the exit status."""
    return _run("canary", argv)


def shadow(argv: Sequence[str]) -> int:
    """``ranktower shadow``; returns the exit status."""
    return _run("shadow", argv)


def _run(role: VariationRole, argv: Sequence[str]) -> int:
    options = _parser(role).parse_args(argv)
    registry, model, redis = Registry(options.registry), options.model, redis_options(options)
    variation = _variation(options)
    to = (variation.model or model, variation.release) if variation else None
    move_pointer(registry, redis, model, lambda own: own.vary(model, role, variation), to=to)
    if variation is None:
        told = "off"
    else:
        whose = f" of {variation.model}" if variation.model else ""
        told = f"{variation.release}{whose} for {variation.share:g} of the {'users' if role == 'canary' else 'answers'}"
    sys.stdout.write(f"{role}: {model}: {told}\n")
    return 0


def _variation(options: argparse.Namespace) -> Variation | None:
    """What the options ask for; None for ``--off``."""
    if options.off:
        given = [name for name in ("share", "from_model") if getattr(options, name) is not None]
        if given:
            raise ConfigError(f"--off: stands alone, got --{given[0].replace('_', '-')} too")
        return None
    if options.share is None:
        raise ConfigError(f"--share: needed beside --release {options.release}")
    source = options.from_model if options.from_model != options.model else None
    try:
        return Variation(release=options.release, share=options.share, model=source)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error


def _parser(role: VariationRole) -> argparse.ArgumentParser:
    text, share = _TEXTS[role]
    parser = argparse.ArgumentParser(prog=f"ranktower {role}", description=f"{text} Running services follow.")
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model whose pointer it is")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--release", help="a published release")
    what.add_argument("--off", action="store_true", help="no second release any more")
    parser.add_argument("--share", type=float, help=f"{share}, above 0 and at most 1")
    parser.add_argument("--from-model", help="model that the release belongs to, where it is another one")
    add_redis_options(parser)
    return parser
