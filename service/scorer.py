"""Stored rows to scores: the per-pair part of the model, and the user tower for users that are not stored.

Axes: ``N`` candidates, ``Hu``/``Hi`` sub-spaces of user and item, ``D`` embedding width, ``A`` attention width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.encoder import FeatureEncoder
from ranktower.embedding_store.codec import ARRAYS
from ranktower.errors import ConfigError, ReleaseError
from ranktower.release import FEATURES, SCORER, TOWERS, Manifest
from service.onnx import open_session

Arrays = dict[str, NDArray[np.float32]]

_FIRST_CAPACITY = 1024


class Scorer:
    """``scorer.onnx`` over rows of bytes. Not for several threads at once: it reuses its buffers."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the graph of a verified release; ReleaseError if it cannot be run."""
        inputs = [f"{side}_{array}" for side in ("user", "item") for array in ARRAYS]
        self._session = open_session(folder / SCORER, inputs=inputs, outputs=["scores"])
        self._users = manifest.layout("user")
        self._items = manifest.layout("item")
        self._capacity = _FIRST_CAPACITY
        self._buffers = self._items.empty(self._capacity)

    def user_arrays(self, raw: NDArray[np.uint8]) -> Arrays:
        """The arrays ``[1, Hu, D or A]`` of one stored user, ``raw [1, row_size]``."""
        return self._users.decode(raw)

    def score(self, user: Mapping[str, NDArray[np.float32]], items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores (logits) ``[N]`` of the stored items ``[N, row_size]`` for one user's arrays ``[1, Hu, *]``."""
        if not len(items):
            return np.empty(0, dtype=np.float32)
        if len(items) > self._capacity:
            # Fresh memory for every request costs more in page faults than the decoding itself.
            self._capacity = 1 << (len(items) - 1).bit_length()
            self._buffers = self._items.empty(self._capacity)
        decoded = self._items.decode(items, self._buffers)
        feed = {f"user_{array}": user[array] for array in ARRAYS}
        feed.update({f"item_{array}": decoded[array] for array in ARRAYS})
        scores: NDArray[np.float32] = self._session.run(["scores"], feed)[0]
        if scores.shape != (len(items),):
            raise ReleaseError(f"{SCORER}: scores of shape {scores.shape} for {len(items)} candidates")
        return scores


class UserTower:
    """``features.json`` and ``user_tower.onnx``: the arrays of a user from the features in a request."""

    def __init__(self, folder: Path) -> None:
        """Open both files of a verified release; ReleaseError if they cannot be used together."""
        try:
            self._encoder = FeatureEncoder.load(folder / FEATURES).user
        except ConfigError as error:
            raise ReleaseError(str(error)) from error
        bags = [f"{name}_{part}" for name in self._encoder.bag_fields for part in ("values", "length")]
        self._outputs = [f"user_{array}" for array in ARRAYS]
        self._session = open_session(folder / TOWERS["user"], inputs=["codes", *bags], outputs=self._outputs)

    def encode(self, features: Mapping[str, Any]) -> Mapping[str, NDArray[np.int64]]:
        """The tower's inputs of one user; ConfigError naming an unknown feature or a wrong value."""
        encoded = self._encoder.encode_one(features)
        feed = {"codes": encoded.codes.astype(np.int64)}
        for name in self._encoder.bag_fields:
            feed[f"{name}_values"] = encoded.bags[name].astype(np.int64)
            feed[f"{name}_length"] = encoded.lengths[name].astype(np.int64)
        return feed

    def compute(self, feed: Mapping[str, NDArray[np.int64]]) -> Arrays:
        """The arrays ``[1, Hu, D or A]`` of one user from what ``encode`` gave."""
        outputs = self._session.run(self._outputs, dict(feed))
        return dict(zip(ARRAYS, outputs, strict=True))
