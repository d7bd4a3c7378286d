"""First runs allocate and are slow: each graph runs before its release is served, timed for the first estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowKind
from ranktower.release import LEVEL_GRAPHS, Manifest
from service.costs import CostLine, Costs, Work
from service.scorer import Scorer, UserRow

# The usual size of a request, and a small one: two points make a line.
_USUAL, _SMALL = 1000, 50
_REPEATS = 3


def warm_up(scorer: Scorer, manifest: Manifest, kinds: Iterable[RowKind], user: UserRow) -> Costs:
    """Run every graph of the scorer on rows of zeros, which cost as much as others."""
    items = manifest.layout("item")
    lines: dict[Work, CostLine] = {}
    for kind in set(kinds):
        layout = replace(items, kind=kind)
        rows = np.zeros((_USUAL, layout.row_size), dtype=np.uint8)
        lines["full", kind] = _time(partial(scorer.score, user, layout), rows)
    embeddings = np.zeros((_USUAL, items.embedding_size), dtype=np.uint8)
    for level in LEVEL_GRAPHS if manifest.ladder else ():
        lines[level] = _time(partial(scorer.score_level, level, user), embeddings)
    lines["answer"] = _time(partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY), np.zeros(_USUAL, np.float32))
    return Costs(lines)


def _time(run: Callable[[NDArray[Any]], object], values: NDArray[Any]) -> CostLine:
    """The line through the fastest of a few runs at two sizes: at start other things run beside."""
    usual_s, small_s = (min(_seconds(run, values[:size]) for _ in range(_REPEATS)) for size in (_USUAL, _SMALL))
    per_candidate_s = max(usual_s - small_s, 0.0) / (_USUAL - _SMALL)
    return CostLine(small_s - per_candidate_s * _SMALL, per_candidate_s)


def _seconds(run: Callable[[NDArray[Any]], object], values: NDArray[Any]) -> float:
    start = time.perf_counter()
    run(values)
    return time.perf_counter() - start
