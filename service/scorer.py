"""Stored rows to scores: the per-pair part of the model, and what of it explains them.

Axes: ``N`` candidates, ``Hu``/``Hi`` sub-spaces of user and item, ``D`` embedding width, ``A`` attention width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowKind, RowLayout
from ranktower.embedding_store.protocol import StoredRows
from ranktower.errors import ReleaseError
from ranktower.release import LEVEL_GRAPHS, SCORERS, LevelGraph, Manifest
from service.candidates import Chosen
from service.errors import NotExplainableError
from service.native import NativeScorers
from service.onnx import open_session
from service.settings import EngineChoice

UserRow = NDArray[np.uint8]
"""One row of bytes ``[1, row_size]`` of the users' layout."""

BLOCK = 1024
"""Candidates scored at once. What the graph holds between two operators is then at most a few MB, which the processor's
caches hold: ``docs/adr/0013``."""

EXPLANATION = ("scores", "user_attention", "item_attention", "cosines", "contributions")
"""Outputs of the graph of full scoring, see ``Scorer.explain``."""


class Scorer:
    """The graphs of a release over rows of bytes as they are stored: full scoring and the ladder's lower levels.

    Full scoring is done by the native scorer, where there is one; ONNX Runtime is what it is held against.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, kinds: Iterable[RowKind], *, engine: EngineChoice = "auto"
    ) -> None:
        """Open the graphs for items' rows of these kinds; ReleaseError if one cannot be run."""
        kinds = set(kinds)
        self._users = manifest.layout("user")
        self._sessions = {
            kind: open_session(folder / SCORERS[kind], inputs=["user_rows", "item_rows"], outputs=["scores"])
            for kind in kinds
        }
        self._embeddings = replace(manifest.layout("item"), kind="embedding")
        self._levels = {
            level: open_session(folder / name, inputs=["user_rows", "item_rows"], outputs=["scores"])
            for level, name in LEVEL_GRAPHS.items()
            if manifest.ladder
        }
        self.native = NativeScorers(engine, folder, manifest, kinds)
        self.native.try_random(self._users, manifest.layout("item"), self.score_reference)

    def score_stored(self, user: UserRow, items: StoredRows, chosen: Chosen | None = None) -> NDArray[np.float32]:
        """As ``score``, of the rows at the given places among those found; the native scorer reads them where they are
        stored."""
        native = self.native.of(items.layout.kind)
        if native is None:
            return self.score_reference(user, items.layout, items.whole(chosen))
        return native.score(user, *items.in_place(chosen))

    def score(self, user: UserRow, layout: RowLayout, items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores (logits) ``[N]`` of items ``[N, row_size]`` of a layout, for one user."""
        native = self.native.of(layout.kind)
        return self.score_reference(user, layout, items) if native is None else native.score(user, items)

    def score_reference(self, user: UserRow, layout: RowLayout, items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``score``, always by ONNX Runtime."""
        session = self._sessions[layout.kind]
        user_values, item_values = self._users.values(user), layout.values(items)
        if 0 < len(items) <= BLOCK:
            return self._run(session, user_values, item_values)
        scores = np.empty(len(items), dtype=np.float32)
        for start in range(0, len(items), BLOCK):
            block = item_values[start : start + BLOCK]
            scores[start : start + BLOCK] = self._run(session, user_values, block)
        return scores

    def score_level(self, level: LevelGraph, user: UserRow, items: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uncalibrated scores ``[N]`` of a lower level, of rows ``[N, row_size]`` of kind ``embedding``."""
        return self._run(self._levels[level], self._users.values(user), self._embeddings.values(items))

    def explain(self, user: UserRow, layout: RowLayout, items: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """``scores [N]`` as ``score_reference`` gives them, at most ``BLOCK``, and what they are made of.

        Returns:
            besides the scores the softmax weights of both branches, ``user_attention [Hu, Hi, N]`` (over Hi) and
            ``item_attention [Hi, Hu, N]`` (over Hu), the ``cosines [Hu, Hi, N]``, and ``contributions [Hu, N]``: the
            best cosine of each user sub-space over tau. A candidate's contributions sum to its score.

        Raises:
            NotExplainableError: the release's graph gives only scores.
        """
        session = self._sessions[layout.kind]
        if not {value.name for value in session.get_outputs()}.issuperset(EXPLANATION):
            raise NotExplainableError("the release was exported without what explains its scores; export it again")
        rows = {"user_rows": self._users.values(user), "item_rows": layout.values(items)}
        return dict(zip(EXPLANATION, session.run(EXPLANATION, rows), strict=True))

    def _run(self, session: Any, user: NDArray[np.floating], items: NDArray[np.floating]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = session.run(["scores"], {"user_rows": user, "item_rows": items})[0]
        if scores.shape != (len(items),):
            raise ReleaseError(f"the scorer gives scores of shape {scores.shape} for {len(items)} candidates")
        return scores
