"""A release of the reference shape (DESIGN: Hu = Hi = 4, D = A = 32) with simulated rows, and a service on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from model_export.calibration import build_ladder
from model_export.graphs import write_level, write_scorer, write_tower
from model_export.level_scorer import LevelScorer
from offline.quality import stored_rows
from ranktower.blocks import FieldSizes
from ranktower.data.encoder import FeatureEncoder, FieldEncoder, SideEncoder
from ranktower.embedding_store.codec import ARRAYS, SIDES, RowDtype, RowKind, RowLayout, Side
from ranktower.embedding_store.faiss_index import FLAT_LIMIT, build_index, pooled_vectors
from ranktower.embedding_store.local import IDS_FILE, LocalTable, map_keys, write_fallback_user
from ranktower.embedding_store.table_writer import write_table
from ranktower.ladder import LadderLevel
from ranktower.models import RankTower, RankTowerConfig
from ranktower.registry import Registry
from ranktower.release import (
    FEATURES,
    GOLDEN,
    LEVEL_GRAPHS,
    RETRIEVAL_INDEX,
    SCORERS,
    TABLES,
    TOWERS,
    Manifest,
    Shape,
    release_id,
    release_tag,
    write_manifest,
)
from ranktower.verification import hash_files

MODEL = "reference"
_FIELD = FieldEncoder("group", "categorical", vocabulary=tuple(map(str, range(100))))
_SIZES = FieldSizes(single={"group": _FIELD.cardinality}, bags={})
_BATCH_ROWS = 16_384


def reference_model() -> RankTower:
    """The untrained model of every reference release; always the same."""
    torch.manual_seed(0)
    return RankTower(RankTowerConfig(), _SIZES, _SIZES).eval()


def build_reference_release(
    root: Path,
    *,
    num_users: int = 200_000,
    num_items: int = 200_000,
    dtype: RowDtype = "float16",
    item_rows: RowKind = "projected",
    string_ids: bool = False,
) -> Manifest:
    """Publish and promote a release below ``root``: an untrained model, sparse ids, random multi-embeddings.

    Ids are random integers below 2^40, or strings made of them; ``stored_ids`` gives them.
    """
    model = reference_model()
    created = datetime.now(UTC).replace(microsecond=0)
    release = release_id(created, "0" * 8)
    registry = Registry(root)
    folder = registry.staging_dir(MODEL, release)
    folder.mkdir(parents=True)
    for kind, name in SCORERS.items():
        write_scorer(model, folder / name, kind=kind, dtype=dtype)
    for level, name in LEVEL_GRAPHS.items():
        write_level(model, folder / name, level=level, dtype=dtype)
    for side in SIDES:
        write_tower(model, side, _SIZES, folder / TOWERS[side], bag_slots={})
    FeatureEncoder(SideEncoder((_FIELD,)), SideEncoder((_FIELD,))).save(folder / FEATURES)
    config = model.config
    draft = Manifest(
        model=MODEL,
        release=release,
        tag=release_tag(release).hex(),
        created=created,
        row_dtype=dtype,
        item_rows=item_rows,
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
        ids = _sparse_ids(side, draft.num_rows(side), as_strings=string_ids)
        write_table(folder / TABLES[side], ids, _rows(model, side), layout, batch_size=_BATCH_ROWS)
    write_fallback_user(folder, draft.layout("user"), _rows(model, "user")(np.zeros(1, dtype=np.int64)))
    items = LocalTable(folder / TABLES["item"], draft.layout("item"))
    layout = draft.layout("item")
    pooled = [pooled_vectors(layout.decode(raw)["embedding"]) for _, raw in items.batches(_BATCH_ROWS)]
    # A fixed number of lists: FAISS's own default would train for minutes on ten million items, and retrieval is not
    # what is measured on such a release.
    factory = None if num_items <= FLAT_LIMIT else "IVF1024,Flat"
    build_index(folder / RETRIEVAL_INDEX, np.concatenate(pooled), factory=factory)
    _write_golden(folder, draft, model)
    manifest = draft.model_copy(update={"files": hash_files(folder), "ladder": _ladder(folder, draft)})
    write_manifest(folder, manifest)
    registry.publish(folder)
    registry.promote(MODEL, release)
    return manifest


def stored_ids(root: Path, side: Side, manifest: Manifest) -> NDArray[np.generic]:
    """The ids of one side of a release below ``root``, int64 or bytes, in the table's order."""
    folder = Registry(root).release_dir(MODEL, manifest.release)
    return np.asarray(map_keys(folder / TABLES[side] / IDS_FILE))


def _sparse_ids(side: Side, num_rows: int, *, as_strings: bool) -> NDArray[np.generic]:
    generator = np.random.default_rng(SIDES.index(side))
    drawn = np.unique(generator.integers(0, 1 << 40, num_rows + num_rows // 1000 + 10))
    ids = generator.permutation(drawn)[:num_rows]
    return np.char.add(f"{side}-", ids.astype(str)) if as_strings else ids


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
    rows, ids = {}, {}
    for side in SIDES:
        table = LocalTable(folder / TABLES[side], draft.layout(side))
        ids[side] = np.array(table.ids_at(slice(0, 8)))
        rows[side] = table.fetch(ids[side].tolist()).raw
    redis = draft.redis_layout("item")
    scores = [
        _scores(model, draft, rows["user"], layout, rows["item"][:, : layout.row_size])
        for layout in (draft.layout("item"), redis)
    ]
    users, items = np.repeat(ids["user"], 8), np.tile(ids["item"], 8)
    np.savez(folder / GOLDEN, user_ids=users, item_ids=items, scores=scores[0], embedding_scores=scores[1])


def _ladder(folder: Path, draft: Manifest) -> tuple[LadderLevel, ...]:
    """Measured on stored rows, the ten items with the best scores being relevant to a user."""
    scorer, rows = LevelScorer(folder), {}
    for side, count in (("user", 16), ("item", 1000)):
        table, layout = LocalTable(folder / TABLES[side], draft.layout(side)), draft.redis_layout(side)
        raw = table.fetch(table.ids_at(slice(0, count))).raw
        rows[side] = layout.values(np.ascontiguousarray(raw[:, : layout.row_size]))
    lists = []
    for user in rows["user"]:
        one = scorer.score(user[None], rows["item"], np.zeros(len(rows["item"]), dtype=np.float32))
        one.labels[np.argsort(-one.full)[:10]] = 1
        lists.append(one)
    return build_ladder(lists, k=100, shares=(0.5, 0.25, 0.1))


def _scores(
    model: RankTower, draft: Manifest, users: NDArray[np.uint8], layout: RowLayout, items: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Torch's scores of all pairs of stored rows, ``[num_users * num_items]``."""
    user_rows = stored_rows(model, "user", draft.layout("user"), users)
    lists = tuple(array.expand(len(users), *array.shape) for array in stored_rows(model, "item", layout, items))
    with torch.no_grad():
        return model.score_pairs(user_rows, lists).numpy().ravel()


@dataclass(frozen=True)
class Served:
    """A service that is ready. ``pid`` is of the process that was started; several workers are its children."""

    address: str
    pid: int


@contextlib.contextmanager
def serving(
    registry: Path, env: Mapping[str, str], *, model: str = MODEL, cores: set[int] | None = None
) -> Iterator[str]:
    """``ranktower serve`` in a process of its own, on ``cores``; yields its address once it is ready."""
    with served(registry, env, model=model, cores=cores) as service:
        yield service.address


@contextlib.contextmanager
def served(
    registry: Path, env: Mapping[str, str], *, model: str = MODEL, cores: set[int] | None = None
) -> Iterator[Served]:
    """``serving`` for a caller that needs the process too."""
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
        _await_ready(server, address, log)
        yield Served(address, server.pid)
    finally:
        server.terminate()
        server.wait(timeout=30)


def _await_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    while server.poll() is None:
        # The port is taken before the application is imported, and answers after.
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        time.sleep(0.02)
    raise RuntimeError(f"the service ended before it was ready: {log.read_text()}")


def _port(server: subprocess.Popen[bytes], log: Path) -> int:
    while server.poll() is None:
        for line in log.read_text().splitlines():
            content = json.loads(line) if line.startswith("{") else {}
            if "port" in content:
                return int(content["port"])
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start: {log.read_text()}")
