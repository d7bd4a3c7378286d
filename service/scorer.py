"""Stored rows to scores: the per-pair part of the model, and the user tower for users that are not stored.

Axes: ``N`` candidates, ``Hu``/``Hi`` sub-spaces of user and item, ``D`` embedding width, ``A`` attention width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.encoder import FeatureEncoder
from ranktower.embedding_store.codec import RowKind, RowLayout
from ranktower.errors import ConfigError, ReleaseError
from ranktower.release import FEATURES, SCORERS, TOWERS, Manifest
from service.onnx import open_session

UserRow = NDArray[np.uint8]
"""One row of bytes ``[1, row_size]`` of the users' layout."""

BLOCK = 1024
"""Candidates scored at once. What the graph holds between two operators is then at most a few MB, which the processor's
caches hold: ``docs/adr/0013``."""


class Scorer:
    """``scorer.onnx`` and ``embedding_scorer.onnx`` over rows of bytes as they are stored."""

    def __init__(self, folder: Path, manifest: Manifest, kinds: Iterable[RowKind]) -> None:
        """Open the graphs for items' rows of these kinds; ReleaseError if one cannot be run."""
        self._users = manifest.layout("user")
        self._sessions = {
            kind: open_session(folder / SCORERS[kind], inputs=["user_rows", "item_rows"], outputs=["scores"])
            for kind in set(kinds)
        }

    def score(self, user: UserRow, layout: RowLayout, items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores (logits) ``[N]`` of stored items ``[N, row_size]`` of a layout, for one user."""
        session = self._sessions[layout.kind]
        user_values, item_values = self._users.values(user), layout.values(items)
        if 0 < len(items) <= BLOCK:
            return self._run(session, user_values, item_values)
        scores = np.empty(len(items), dtype=np.float32)
        for start in range(0, len(items), BLOCK):
            block = item_values[start : start + BLOCK]
            scores[start : start + BLOCK] = self._run(session, user_values, block)
        return scores

    def _run(self, session: Any, user: NDArray[np.floating], items: NDArray[np.floating]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = session.run(["scores"], {"user_rows": user, "item_rows": items})[0]
        if scores.shape != (len(items),):
            raise ReleaseError(f"the scorer gives scores of shape {scores.shape} for {len(items)} candidates")
        return scores


class UserTower:
    """``features.json`` and ``user_tower.onnx``: a user's row from the features in a request."""

    def __init__(self, folder: Path, layout: RowLayout) -> None:
        """Open both files of a verified release; ReleaseError if they cannot be used together."""
        try:
            self._encoder = FeatureEncoder.load(folder / FEATURES).user
        except ConfigError as error:
            raise ReleaseError(str(error)) from error
        bags = [f"{name}_{part}" for name in self._encoder.bag_fields for part in ("values", "length")]
        self._layout = layout
        self._session = open_session(folder / TOWERS["user"], inputs=["codes", *bags], outputs=["user_embedding"])

    def encode(self, features: Mapping[str, Any]) -> Mapping[str, NDArray[np.int64]]:
        """The tower's inputs of one user; ConfigError naming an unknown feature or a wrong value."""
        encoded = self._encoder.encode_one(features)
        feed = {"codes": encoded.codes.astype(np.int64)}
        for name in self._encoder.bag_fields:
            feed[f"{name}_values"] = encoded.bags[name].astype(np.int64)
            feed[f"{name}_length"] = encoded.lengths[name].astype(np.int64)
        return feed

    def compute(self, feed: Mapping[str, NDArray[np.int64]]) -> UserRow:
        """The row of one user from what ``encode`` gave: the bytes that precompute would have stored."""
        (embedding,) = self._session.run(["user_embedding"], dict(feed))
        return self._layout.encode({"embedding": embedding})
