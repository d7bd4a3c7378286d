"""What the servers are given: the peers' arrays out of a reference release, the requests, and torch's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from naive_graph import write_naive_graph
from numpy.typing import NDArray
from reference_release import MODEL, reference_model, stored_ids

from ranktower.embedding_store.codec import SIDES, Side
from ranktower.embedding_store.local import LocalTable
from ranktower.registry import Registry
from ranktower.release import TABLES, Manifest

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Request:
    """One request: rows of the tables, and the ids that stand for them."""

    user_row: int
    item_rows: NDArray[np.int64]
    user_id: int | str
    candidate_ids: list[Any]

    @property
    def body(self) -> bytes:
        """As JSON, in the form that every server takes."""
        return json.dumps({"user_id": self.user_id, "candidate_ids": self.candidate_ids}).encode()


def write_job(root: Path, manifest: Manifest, folder: Path) -> None:
    """Fill ``folder`` with what ``job.Job`` loads: the release's multi-embeddings, its ids, and the naive graph.

    Args:
        root: registry of a reference release with float32 rows, ids as integers.
        manifest: its manifest.
        folder: where to write.
    """
    for side in SIDES:
        np.save(folder / f"{side}.npy", _embeddings(root, side, manifest))
        np.save(folder / f"{side}_ids.npy", _ids(root, side, manifest))
    write_naive_graph(reference_model(), folder / "naive.onnx")


def make_requests(folder: Path, *, num_requests: int, num_candidates: int) -> list[Request]:
    """Requests over the rows in ``folder``: a random user, random items, none twice in a request."""
    random = np.random.default_rng(0)
    user_ids, item_ids = (np.load(folder / f"{side}_ids.npy") for side in SIDES)
    requests = []
    for _ in range(num_requests):
        user_row = int(random.integers(len(user_ids)))
        item_rows = random.choice(len(item_ids), num_candidates, replace=False)
        requests.append(Request(user_row, item_rows, user_ids[user_row].item(), item_ids[item_rows].tolist()))
    return requests


def torch_scores(folder: Path, requests: list[Request]) -> list[NDArray[np.float32]]:
    """Scores ``[N]`` of each request by the model itself, in float32, from the rows in ``folder``."""
    model = reference_model()
    users, items = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in SIDES)
    answers = []
    with torch.no_grad():
        for request in requests:
            user = model.cross_attention.project_users(torch.from_numpy(users[[request.user_row]]))
            rows = model.cross_attention.project_items(torch.from_numpy(items[request.item_rows]).unsqueeze(0))
            answers.append(model.score_pairs(user, rows).numpy().ravel())
    return answers


def _embeddings(root: Path, side: Side, manifest: Manifest) -> NDArray[np.float32]:
    layout = manifest.layout(side)
    table = LocalTable(Registry(root).release_dir(MODEL, manifest.release) / TABLES[side], layout)
    return np.concatenate([layout.decode(raw)["embedding"] for _, raw in table.batches(_BATCH_ROWS)])


def _ids(root: Path, side: Side, manifest: Manifest) -> NDArray[np.generic]:
    ids = stored_ids(root, side, manifest)
    return np.char.decode(ids) if ids.dtype.kind == "S" else ids
