"""A release of the reference shape (DESIGN: Hu = Hi = 4, D = A = 32) with simulated rows, and a service on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from model_export.graphs import write_scorer, write_tower
from ranktower.blocks import FieldSizes
from ranktower.data.encoder import FeatureEncoder, FieldEncoder, SideEncoder
from ranktower.embedding_store.codec import ARRAYS, SIDES, Side
from ranktower.embedding_store.faiss_index import build_index, pooled_vectors
from ranktower.embedding_store.local import LocalTable, write_fallback_user
from ranktower.embedding_store.table_writer import write_table
from ranktower.models import RankTower, RankTowerConfig
from ranktower.registry import Registry
from ranktower.release import (
    FEATURES,
    GOLDEN,
    RETRIEVAL_INDEX,
    SCORER,
    TABLES,
    TOWERS,
    Manifest,
    Shape,
    hash_files,
    release_id,
    release_tag,
    write_manifest,
)

MODEL = "reference"
_FIELD = FieldEncoder("group", "categorical", vocabulary=tuple(map(str, range(100))))


def build_reference_release(root: Path, *, num_users: int = 200_000, num_items: int = 200_000) -> Manifest:
    """Publish and promote a release below ``root``: an untrained model, ids 0 .. n-1, random multi-embeddings."""
    torch.manual_seed(0)
    sizes = FieldSizes(single={"group": _FIELD.cardinality}, bags={})
    model = RankTower(RankTowerConfig(), sizes, sizes).eval()
    created = datetime.now(UTC).replace(microsecond=0)
    release = release_id(created, "0" * 8)
    registry = Registry(root)
    folder = registry.staging_dir(MODEL, release)
    folder.mkdir(parents=True)
    write_scorer(model, folder / SCORER)
    for side in SIDES:
        write_tower(model, side, sizes, folder / TOWERS[side], bag_slots={})
    FeatureEncoder(SideEncoder((_FIELD,)), SideEncoder((_FIELD,))).save(folder / FEATURES)
    config = model.config
    draft = Manifest(
        model=MODEL,
        release=release,
        tag=release_tag(release).hex(),
        created=created,
        shape=Shape(num_user_heads=4, num_item_heads=4, width=config.width, attention_width=config.attention_width),
        tau=model.similarity.tau.item(),
        num_users=num_users,
        num_items=num_items,
        training_run_id="none",
        data_id="none",
        files={},
        fallback_user=True,
    )
    for side in SIDES:
        layout = draft.layout(side)
        write_table(folder / TABLES[side], np.arange(draft.num_rows(side)), _rows(model, side), layout)
    write_fallback_user(folder, draft.layout("user"), _rows(model, "user")(np.zeros(1, dtype=np.int64)))
    items = LocalTable(folder / TABLES["item"], draft.layout("item"))
    layout = draft.layout("item")
    pooled = [pooled_vectors(layout.decode(raw)["embedding"]) for _, raw in items.batches(10_000)]
    build_index(folder / RETRIEVAL_INDEX, np.concatenate(pooled))
    _write_golden(folder, draft, model)
    manifest = draft.model_copy(update={"files": hash_files(folder)})
    write_manifest(folder, manifest)
    registry.publish(folder)
    registry.promote(MODEL, release)
    return manifest


def _rows(model: RankTower, side: Side) -> Callable[[NDArray[np.int64]], dict[str, NDArray[np.float32]]]:
    project = model.cross_attention.project_users if side == "user" else model.cross_attention.project_items
    heads = model.config.num_user_heads if side == "user" else model.config.num_item_heads

    def compute(positions: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        generator = torch.Generator().manual_seed(int(positions[0]) + (side == "item") * 10**9)
        embedding = torch.randn(len(positions), heads, model.config.width, generator=generator)
        with torch.no_grad():
            return {name: array.numpy() for name, array in zip(ARRAYS, project(embedding), strict=True)}

    return compute


def _write_golden(folder: Path, draft: Manifest, model: RankTower) -> None:
    arrays = {}
    for side in SIDES:
        layout = draft.layout(side)
        raw = LocalTable(folder / TABLES[side], layout).fetch([str(row) for row in range(8)]).raw
        arrays[side] = tuple(torch.from_numpy(layout.decode(raw)[name]) for name in ARRAYS)
    with torch.no_grad():
        lists = tuple(array.expand(8, *array.shape) for array in arrays["item"])
        scores = model.score_pairs(arrays["user"], lists).numpy().ravel()
    users, items = np.repeat(np.arange(8), 8).astype(str), np.tile(np.arange(8), 8).astype(str)
    np.savez(folder / GOLDEN, user_ids=users, item_ids=items, scores=scores, scores_fp32=scores)


@contextlib.contextmanager
def serving(
    registry: Path, env: Mapping[str, str], *, model: str = MODEL, cores: set[int] | None = None
) -> Iterator[str]:
    """``ranktower serve`` in a process of its own, on ``cores``; yields its address once it is ready."""
    command = [sys.executable, "-m", "ranktower.cli", "serve", "--registry", str(registry), "--model", model]
    command += ["--host", "127.0.0.1", "--port", "0"]
    log = registry / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,  # noqa: PLW1509 - no threads yet
        )
    try:
        address = f"http://127.0.0.1:{_port(server, log)}"
        while httpx.get(f"{address}/readyz").status_code != 200:
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    while server.poll() is None:
        for line in log.read_text().splitlines():
            content = json.loads(line) if line.startswith("{") else {}
            if "port" in content:
                return int(content["port"])
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start: {log.read_text()}")
