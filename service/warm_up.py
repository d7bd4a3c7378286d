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
from service.costs import CostLine, Costs, OtherWork, Work
from service.retrieval import Retrieval
from service.scorer import Scorer, UserRow

# The usual size of a request, and a small one: two points make a line.
_USUAL, _SMALL = 1000, 50
_REPEATS = 3


# What cannot be timed before there are requests begins with a guess, which the first of them correct. A release without
# a retrieval index refuses what asks for it.
_GUESSES: dict[OtherWork, tuple[float, float]] = {
    "find": (2e-5, 1e-7),
    "fetch": (5e-4, 1e-6),
    "tower": (2e-4, 3e-5),
    "retrieve": (0.0, 0.0),
}


def warm_up(
    scorer: Scorer, manifest: Manifest, kinds: Iterable[RowKind], user: UserRow, retrieval: Retrieval | None
) -> Costs:
    """Run every graph of the scorer on rows of zeros, which cost as much as others, and the retrieval index."""
    items = manifest.layout("item")
    lines: dict[Work, CostLine] = {work: CostLine(*guess) for work, guess in _GUESSES.items()}
    for kind in set(kinds):
        layout = replace(items, kind=kind)
        rows = np.zeros((_USUAL, layout.row_size), dtype=np.uint8)
        lines["full", kind] = _time(partial(scorer.score, user, layout), rows)
    embeddings = np.zeros((_USUAL, items.embedding_size), dtype=np.uint8)
    for level in LEVEL_GRAPHS if manifest.ladder else ():
        lines[level] = _time(partial(scorer.score_level, level, user), embeddings)
    scores = np.linspace(0.0, 1.0, _USUAL, dtype=np.float32)
    lines["answer"] = _time(partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY), scores)
    lines["ranking"] = _time(_write_ranking, scores)
    if retrieval is not None:
        lines["retrieve"] = _time(lambda some: retrieval.candidate_ids(user, len(some)), scores)
    return Costs(lines)


def _write_ranking(scores: NDArray[np.float32]) -> bytes:
    items = [{"id": place, "score": score, "rank": place} for place, score in enumerate(scores)]
    return orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)


def _time(run: Callable[[NDArray[Any]], object], values: NDArray[Any]) -> CostLine:
    """The line through the fastest of a few runs at two sizes: at start other things run beside."""
    usual_s, small_s = (min(_seconds(run, values[:size]) for _ in range(_REPEATS)) for size in (_USUAL, _SMALL))
    per_candidate_s = max(usual_s - small_s, 0.0) / (_USUAL - _SMALL)
    return CostLine(small_s - per_candidate_s * _SMALL, per_candidate_s)


def _seconds(run: Callable[[NDArray[Any]], object], values: NDArray[Any]) -> float:
    start = time.perf_counter()
    run(values)
    return time.perf_counter() - start
