"""The job that every peer does: one user's scores for its candidates. The peers differ in the server around it only.

Runs in the peers' own environments, so it imports numpy and ONNX Runtime and nothing of this project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

# As ``ranktower.onnx_runtime`` does: the library reads it while it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: TID251

# Set by the harness: the folder that ``prepare.write_job`` filled.
FOLDER_VARIABLE = "RANKTOWER_PEER_DATA"
PATH = "/v1/score"


class Job:
    """Rows in memory, a dictionary from id to row on each side, and the naive graph.

    Attributes:
        users, items: multi-embeddings ``[n, H, D]`` float32.
    """

    def __init__(self, folder: Path) -> None:
        self.users, self.items = (np.load(folder / f"{side}.npy") for side in ("user", "item"))
        self._user_rows, self._item_rows = (_index(folder / f"{side}_ids.npy") for side in ("user", "item"))
        options = onnxruntime.SessionOptions()
        # One core: a second thread would only take turns with the first.
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "naive.onnx", options, providers=["CPUExecutionProvider"])

    @classmethod
    def load(cls) -> Job:
        """The job of the folder that the environment names."""
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    def score(self, user_id: int | str, candidate_ids: list[Any]) -> list[float | None]:
        """Scores in the order of the candidates, null for an unknown one.

        Raises:
            KeyError: an unknown user.
        """
        rows = [self._item_rows.get(candidate, -1) for candidate in candidate_ids]
        inputs = {"user": self.users[None, self._user_rows[user_id]], "items": self.items[rows]}
        (scores,) = self._session.run(None, inputs)
        answer: list[float | None] = scores.tolist()
        if -1 in rows:
            answer = [None if row < 0 else score for row, score in zip(rows, answer, strict=True)]
        return answer


def _index(path: Path) -> dict[int | str, int]:
    return {known: row for row, known in enumerate(np.load(path).tolist())}
