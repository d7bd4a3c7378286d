"""``features.json`` and the towers: rows of users and items that are not stored, from the features in a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.encoder import FeatureEncoder, SideEncoder
from ranktower.embedding_store.codec import RowLayout, Side
from ranktower.errors import ConfigError, DataError, ReleaseError
from ranktower.release import FEATURES, TOWERS
from service.onnx import open_session

Encoded = Mapping[str, NDArray[np.int64]]
"""A tower's inputs for one user or item; each array has one row."""


class Tower:
    """One side's tower, and the encoder of its features."""

    def __init__(self, path: Path, side: Side, encoder: SideEncoder, layout: RowLayout) -> None:
        """Open the graph; ``layout`` is that of the rows to give.

        Raises:
            ReleaseError: the graph cannot be used with the encoder, or gives no rows of the layout.
        """
        self.layout = layout
        self._encoder = encoder
        self._outputs = {array: f"{side}_{array}" for array in layout.arrays}
        bags = [f"{name}_{part}" for name in encoder.bag_fields for part in ("values", "length")]
        self._session = open_session(path, inputs=["codes", *bags], outputs=list(self._outputs.values()))
        try:
            self.compute([self.encode({})])
        except (ValueError, DataError) as error:
            raise ReleaseError(f"{path.name}: gives no row of this release: {error}") from error

    def encode(self, features: Mapping[str, Any]) -> Encoded:
        """The inputs of one user or item; ConfigError naming an unknown feature or a wrong value."""
        encoded = self._encoder.encode_one(features)
        inputs = {"codes": encoded.codes.astype(np.int64)}
        for name in self._encoder.bag_fields:
            inputs[f"{name}_values"] = encoded.bags[name].astype(np.int64)
            inputs[f"{name}_length"] = encoded.lengths[name].astype(np.int64)
        return inputs

    def compute(self, encoded: Sequence[Encoded]) -> NDArray[np.uint8]:
        """Rows ``[n, row_size]`` of one or more users or items: the bytes that precompute would have stored.

        Raises:
            DataError: a value is not finite in the dtype of the rows.
        """
        inputs = {name: np.concatenate([one[name] for one in encoded]) for name in encoded[0]}
        arrays = self._session.run(list(self._outputs.values()), inputs)
        return self.layout.encode(dict(zip(self._outputs, arrays, strict=True)))


def open_towers(folder: Path, layouts: Mapping[Side, RowLayout]) -> Mapping[Side, Tower]:
    """The towers of a verified release, for rows of these layouts; ReleaseError if one cannot be used."""
    try:
        encoder = FeatureEncoder.load(folder / FEATURES)
    except ConfigError as error:
        raise ReleaseError(str(error)) from error
    encoders: dict[Side, SideEncoder] = {"user": encoder.user, "item": encoder.item}
    return {side: Tower(folder / TOWERS[side], side, encoders[side], layout) for side, layout in layouts.items()}
