"""Users and candidates that are not stored: rows computed from the features that their request brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranktower.data.field_encoder import short
from ranktower.embedding_store.codec import Rows, Side
from ranktower.embedding_store.ids import canonical_texts
from ranktower.embedding_store.protocol import StoredRows
from ranktower.errors import ConfigError, DataError
from service.errors import MalformedError
from service.parsing import Features, Id
from service.towers import Encoded, Tower


class GivenFeatures:
    """The features of one request: checked, needed or not, so that a wrong one does not wait for its first use."""

    def __init__(
        self, towers: Mapping[Side, Tower], user: Features | None, items: Mapping[str, Features] | None = None
    ) -> None:
        """Encode all of them; MalformedError naming the first that a tower does not take. ``items`` by canonical id."""
        self._towers = towers
        self._user = None if user is None else _encode(towers["user"], user, "user_features")
        self._items = {
            item: _encode(towers["item"], features, f"item_features[{short(item)}]")
            for item, features in (items or {}).items()
        }

    @cached_property
    def user_row(self) -> NDArray[np.uint8] | None:
        """The user's row ``[1, row_size]``; None without features. MalformedError if it is too large to be one."""
        return None if self._user is None else _compute(self._towers["user"], [self._user], "user_features")

    def item_rows(self, candidate_ids: Sequence[Id], stored: Sequence[StoredRows]) -> Rows | None:
        """Rows of the candidates that none of ``stored`` has and whose features are given; None if there are none.
        MalformedError if one is too large to be a row."""
        if not self._items:
            return None
        absent = np.flatnonzero(~np.logical_or.reduce([rows.present for rows in stored])).tolist()
        texts = canonical_texts([candidate_ids[index] for index in absent])
        item_of = {index: text for index, text in zip(absent, texts, strict=True) if text in self._items}
        if not item_of:
            return None
        # A candidate may stand there several times, and is computed once.
        places = {item: place for place, item in enumerate(dict.fromkeys(item_of.values()))}
        tower = self._towers["item"]
        computed = _compute(tower, [self._items[item] for item in places], "item_features")
        present = np.zeros(len(candidate_ids), dtype=np.bool_)
        present[list(item_of)] = True
        return Rows(tower.layout, computed[[places[item] for item in item_of.values()]], present)


def _encode(tower: Tower, features: Features, field: str) -> Encoded:
    try:
        return tower.encode(features)
    except ConfigError as error:
        raise MalformedError(f"{field}: {error}") from error


def _compute(tower: Tower, encoded: Sequence[Encoded], field: str) -> NDArray[np.uint8]:
    try:
        return tower.compute(encoded)
    except DataError as error:
        raise MalformedError(f"{field}: an embedding is too large for the release's rows") from error
