"""A release proves itself: the scores it was published with come out again, from the store and graph served here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.errors import ReleaseError
from ranktower.release import GOLDEN, Manifest
from service.background import Runner
from service.scorer import Scorer
from service.stores import ReleaseStore

# No request waits for this, and it is the first thing a fresh connection is asked.
_FETCH_TIMEOUT_S = 5.0


class GoldenMismatchError(ReleaseError):
    """The release's golden pairs are not scored as when it was published."""


async def check_golden(
    folder: Path, manifest: Manifest, *, store: ReleaseStore, scorer: Scorer, tolerance: float, run: Runner
) -> float:
    """Score the golden pairs by ONNX Runtime through the store, but for those whose rows a delta has replaced, and hold
    the native scorer against the scores.

    Args:
        tolerance: largest difference accepted, on the cosine-sum scale (score times tau).
        run: where the scoring is done.

    Returns:
        The largest difference found; 0 where a delta has replaced rows of every pair.

    Raises:
        GoldenMismatchError: a difference is larger or not a number, or a row of a pair is not stored.
        ReleaseError: ``golden.npz`` is not what it should be.
        StoreUnavailableError: the store does not answer.
    """
    scores_of = {kind: "scores" if kind == manifest.item_rows else "embedding_scores" for kind in store.item_row_kinds}
    user_ids, item_ids, expected = _read(folder / GOLDEN, sorted(set(scores_of.values())))
    user_of, pairs_user = np.unique(user_ids, return_inverse=True)
    users = await store.fetch_users(user_of.tolist(), timeout_s=_FETCH_TIMEOUT_S)
    # Of every store: each has the pairs, and where they hold other rows, another graph scores them.
    stores = await store.fetch_items_of_each(item_ids.tolist(), timeout_s=_FETCH_TIMEOUT_S)
    # A delta may have replaced rows of the pairs in Redis; those have other scores, and rightly.
    unchanged = await store.unchanged_of_each(user_ids.tolist(), item_ids.tolist(), timeout_s=_FETCH_TIMEOUT_S)
    for items in stores:
        if not (users.present.all() and items.present.all()):
            absent = int((~users.present).sum()), int((~items.present).sum())
            raise GoldenMismatchError(
                f"{folder / GOLDEN}: {absent[0]} users and {absent[1]} items of the pairs are not stored"
            )

    def largest_difference() -> float:
        differences = [0.0]
        for items, is_unchanged in zip(stores, unchanged, strict=True):
            right, item_rows = expected[scores_of[items.layout.kind]], items.whole()
            for row in np.unique(pairs_user[is_unchanged]).tolist():
                pairs = np.flatnonzero(is_unchanged & (pairs_user == row))
                user, rows = users.raw[row : row + 1], item_rows[pairs]
                scores = scorer.score_reference(user, items.layout, rows)
                scorer.native.compare(user, items.layout, rows, scores)
                differences.append(float(np.abs(scores.astype(np.float64) - right[pairs]).max()) * manifest.tau)
        return float(np.max(differences))  # unlike max(), NaN wins

    found = await run(largest_difference)
    if not found <= tolerance:
        raise GoldenMismatchError(f"{folder / GOLDEN}: scores differ by {found:.3g}, more than {tolerance:g}")
    return found


def _read(
    path: Path, scores: Sequence[str]
) -> tuple[NDArray[np.str_], NDArray[np.str_], dict[str, NDArray[np.float32]]]:
    names = ["user_ids", "item_ids", *scores]
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ReleaseError(f"{path}: cannot be read: {error}") from error
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1 or not max(lengths):
        listed = ", ".join(names[:-1]) + f" and {names[-1]}"
        raise ReleaseError(f"{path}: {listed} must have one length above 0, got {sorted(lengths)}")
    return arrays["user_ids"], arrays["item_ids"], arrays
