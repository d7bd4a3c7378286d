"""The three graphs that give a ladder its scores, over one user and a list of items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.calibration import ScoredList
from model_export.parity import open_session
from ranktower.release import LEVEL_GRAPHS, SCORERS

Rows = NDArray[np.floating]


class LevelScorer:
    """Full scoring, maxsim and pooled, all from stored rows of kind ``embedding``."""

    def __init__(self, folder: Path, *, name: Callable[[str], str] = str) -> None:
        """Open the graphs of a release; of an export where ``name`` gives a graph's file there."""
        graphs = [("full", SCORERS["embedding"]), *LEVEL_GRAPHS.items()]
        self._sessions = {level: open_session(folder / name(graph)) for level, graph in graphs}

    def score(self, user_rows: Rows, item_rows: Rows, labels: NDArray[np.float32]) -> ScoredList:
        """All scores of one user's items: rows ``[1, *]`` and ``[n, *]`` as the graphs take them, labels ``[n]``."""
        feed = {"user_rows": user_rows, "item_rows": item_rows}
        return ScoredList(labels, **{level: run.run(["scores"], feed)[0] for level, run in self._sessions.items()})
