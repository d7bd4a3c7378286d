"""The bodies that ``ranktower bench`` posts: of random stored ids, or out of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.local import IDS_FILE, map_keys
from ranktower.errors import ConfigError
from ranktower.release import TABLES

# At 10 KB each a few megabytes; enough that a server cannot live on what its caches keep of the last ones.
_NUM_BODIES = 1000


@dataclass(frozen=True)
class Requests:
    """Bodies of ``POST /v1/score``, sent in turn; ``num_candidates`` is that of the longest."""

    bodies: list[bytes]
    num_candidates: int


def random_requests(
    release_dir: Path, *, num_candidates: int, budget_ms: float | None = None, num_bodies: int = _NUM_BODIES
) -> Requests:
    """Random users and random items of a release's tables, no item twice in a body; the same at every call.

    Raises:
        ConfigError: a side has no table, or there are fewer items than candidates.
        ReleaseError: a table cannot be read.
    """
    for side in SIDES:
        if not (release_dir / TABLES[side]).is_dir():
            raise ConfigError(f"{release_dir}: no table of {side}s; give bodies with --requests instead")
    users, items = (map_keys(release_dir / TABLES[side] / IDS_FILE) for side in SIDES)
    if num_candidates > len(items) or not len(users):
        stored = f"{len(users):,} users and {len(items):,} items"
        raise ConfigError(f"--candidates {num_candidates}: {release_dir} has {stored}")
    generator = np.random.default_rng(0)

    def one() -> bytes:
        candidates = items[generator.choice(len(items), num_candidates, replace=False)].tolist()
        body = {"user_id": _text(users[generator.integers(len(users))].item())}
        return _encoded(body | {"candidate_ids": [_text(candidate) for candidate in candidates]}, budget_ms)

    return Requests([one() for _ in range(num_bodies)], num_candidates)


def read_requests(path: Path, *, budget_ms: float) -> Requests:
    """The bodies of a file, one a line, with their ``budget_ms`` replaced.

    Raises:
        ConfigError: a line is no body, or there is none.
    """
    bodies, most = [], 0
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"--requests {path}, line {number}"
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{where}: not JSON: {error}, got {line[:80]!r}") from None
        candidates = body.get("candidate_ids") if isinstance(body, dict) else None
        if not isinstance(candidates, list):
            raise ConfigError(f"{where}: candidate_ids: expected an object with a list of ids, got {line[:80]!r}")
        bodies.append(_encoded(body, budget_ms))
        most = max(most, len(candidates))
    if not bodies:
        raise ConfigError(f"--requests {path}: no bodies in it")
    return Requests(bodies, most)


def _encoded(body: dict[str, Any], budget_ms: float | None) -> bytes:
    return orjson.dumps(body if budget_ms is None else body | {"budget_ms": budget_ms})


def _text(one: bytes | int) -> str | int:
    return one.decode() if isinstance(one, bytes) else one
