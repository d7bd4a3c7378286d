"""``ranktower precompute --delta``: new and changed users and items into a release that is served already.

Needs the release and the tables, nothing of the training. ``docs/adr/0028`` says why it is done so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline.exported import tower_rows
from offline.redis_target import add_redis_options, redis_options
from offline.row_bar import row_bar
from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.data.feature_spec import Feature
from ranktower.data.fit import table_columns
from ranktower.data.tables import canonical_ids, read_side
from ranktower.embedding_store.codec import SIDES, Side
from ranktower.embedding_store.local import LocalStore
from ranktower.embedding_store.overlay import Overlay, deltas_dir
from ranktower.embedding_store.overlay_writer import (
    NewRows,
    alone_with_overlays,
    current_overlay,
    point_to,
    write_overlay,
)
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.errors import ConfigError, ReleaseError
from ranktower.registry import Registry, hold_release
from ranktower.release import FEATURES, TOWERS, Manifest, check_model_name, read_manifest
from ranktower.verification import verify_files

_REDIS_BATCH_ROWS = 1000


@dataclass(frozen=True, eq=False)
class SideInput:
    """The users or items of one table, encoded as the release's towers take them."""

    ids: list[str]
    features: EncodedFeatures

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Delta:
    """What a run found and did."""

    num_changed: dict[Side, int]
    """Of each side, the rows that were not stored before as they are now."""
    overlay: Overlay | None
    """What counts now; None where nothing ever changed."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    if options.batch_rows < 1:
        raise ConfigError(f"--batch-rows {options.batch_rows} must be positive")
    paths: dict[Side, Path | None] = {"user": options.users, "item": options.items}
    tables = {side: path for side, path in paths.items() if path is not None}
    if not tables:
        raise ConfigError("--delta: neither --users nor --items names a table")
    redis = redis_options(options)
    started = time.monotonic()
    registry, model = Registry(options.registry), check_model_name(options.model)
    release = options.release
    if release is None:
        pointer = registry.current(model)
        if pointer is None:
            sys.stdout.write(
                f"precompute: {model}: no release has been promoted in {registry.root}, so there is nothing to do\n"
            )
            return 0
        release = pointer.release
    folder = _release_dir(registry, model, release)
    delta = precompute_delta(folder, tables, redis=redis, batch_rows=options.batch_rows)
    changed = " and ".join(f"{num:,} {side}s" for side, num in delta.num_changed.items())
    sys.stdout.write(
        f"precompute: {changed} of release {folder.name} are new or changed; {_described(delta.overlay)}, "
        f"{time.monotonic() - started:.1f} s\n"
    )
    return 0


def _described(overlay: Overlay | None) -> str:
    if overlay is None:
        return "no overlay"
    pointer = overlay.pointer
    return f"overlay {pointer.sequence} holds {pointer.num_users:,} users and {pointer.num_items:,} items"


def precompute_delta(
    folder: Path, tables: Mapping[Side, Path], *, redis: RedisOptions | None, batch_rows: int = 4096
) -> Delta:
    """Compute the rows of these users and items, and put those in front of the release that it does not have already.

    Waits for another run on the same release. Killed, it leaves the overlay as it was.

    Args:
        folder: of the published release.
        tables: canonical tables of either side or both.
        redis: where all rows of ``tables`` are written to as well; before the overlay counts.
        batch_rows: rows computed at once.

    Raises:
        DataError: a table is wrong; nothing is written.
        ReleaseError: the release or its overlay is damaged, or the release is not complete in Redis.
    """
    with hold_release(folder):
        return _compute(folder, tables, redis=redis, batch_rows=batch_rows)


def _compute(folder: Path, tables: Mapping[Side, Path], *, redis: RedisOptions | None, batch_rows: int) -> Delta:
    manifest = read_manifest(folder)
    verify_files(folder, manifest, [FEATURES, *(TOWERS[side] for side in tables)])
    encoder = FeatureEncoder.load(folder / FEATURES)
    encoders = {"user": encoder.user, "item": encoder.item}
    inputs = {side: read_input(path, side, encoders[side]) for side, path in tables.items()}
    deltas = deltas_dir(folder)
    with _writer(redis, manifest) as writer, alone_with_overlays(deltas):
        before = current_overlay(deltas, manifest)
        store = LocalStore(folder, manifest)
        store.use_overlay(before)
        new = {side: _changed(folder, store, manifest, side, rows, batch_rows) for side, rows in inputs.items()}
        overlay = before
        if any(len(rows.ids) for rows in new.values()):
            # Later than the release by the clock of whole seconds too, so that every reader can tell its rows apart.
            created_s = max(int(time.time()), int(manifest.created.timestamp()) + 1)
            overlay = write_overlay(deltas, manifest, before, new, created_s=created_s)
            store.use_overlay(overlay)
        if writer is not None:
            _copy_to_redis(writer, store, manifest, inputs, before)
        if overlay is not None and overlay is not before:
            point_to(deltas, overlay.pointer)
    return Delta({side: len(rows.ids) for side, rows in new.items()}, overlay)


def read_input(path: Path, side: Side, encoder: SideEncoder) -> SideInput:
    """Read a canonical table; a history has a column of its own here, of lists of item ids.

    Raises:
        DataError: a column is missing or of a wrong type, an id is none or a duplicate, or a value is wrong.
    """
    kinds = {field.name: "multi_categorical" if field.kind == "history" else field.kind for field in encoder.fields}
    features = [Feature.model_validate({"name": name, "kind": kind}) for name, kind in kinds.items()]
    frame = read_side(path, f"{side}_id", features)
    encoded = encoder.encode(table_columns(frame, features), frame.height)
    return SideInput(canonical_ids(frame[f"{side}_id"]).to_list(), encoded)


def _release_dir(registry: Registry, model: str, release: str) -> Path:
    folder = registry.release_dir(model, release)
    if not folder.is_dir():
        known = ", ".join(registry.releases(model)) or "none"
        raise ReleaseError(f"{folder}: release {release!r} is not published (published: {known})")
    return folder


def _changed(
    folder: Path, store: LocalStore, manifest: Manifest, side: Side, rows: SideInput, batch_rows: int
) -> NewRows:
    """The rows that ``store`` does not have, or has with other bytes."""
    layout = manifest.layout(side)
    compute = tower_rows(folder, side, rows.features, layout)
    ids: list[str] = []
    parts = [np.empty((0, layout.row_size), dtype=np.uint8)]
    with row_bar(f"delta {side}s", len(rows)) as bar:
        for start in range(0, len(rows), batch_rows):
            positions = np.arange(start, min(start + batch_rows, len(rows)))
            raw = layout.encode(compute(positions))
            wanted = rows.ids[start : start + batch_rows]
            stored = store.find(side, wanted)
            differs = ~stored.present
            differs[stored.present] = (stored.raw != raw[stored.present]).any(axis=1)
            parts.append(raw[differs])
            ids.extend(wanted[place] for place in np.flatnonzero(differs).tolist())
            bar.update(len(positions))
    return NewRows(ids, np.concatenate(parts))


@contextmanager
def _writer(redis: RedisOptions | None, manifest: Manifest) -> Iterator[RedisWriter | None]:
    if redis is None:
        yield None
        return
    with RedisWriter(redis, manifest) as writer:
        if not writer.is_complete():
            raise ReleaseError(f"redis {redis.address}: release {manifest.release!r} is not complete")
        yield writer


def _copy_to_redis(
    writer: RedisWriter,
    store: LocalStore,
    manifest: Manifest,
    inputs: Mapping[Side, SideInput],
    before: Overlay | None,
) -> None:
    """All rows asked for, changed or not: a killed run may have left others. And all of the overlay, where Redis does
    not have that of ``before``: an earlier run was without Redis."""
    overlay = store.overlay
    is_behind = writer.read_overlay_pointer() != (before.pointer if before else None)
    for side in SIDES:
        wanted = list(inputs[side].ids) if side in inputs else []
        if is_behind and overlay is not None and side in overlay.tables:
            wanted = list(dict.fromkeys([*wanted, *overlay.tables[side].ids_at(slice(None))]))
        row_size = manifest.redis_layout(side).row_size
        with row_bar(f"redis {side}s", len(wanted)) as bar:
            for start in range(0, len(wanted), _REDIS_BATCH_ROWS):
                ids = wanted[start : start + _REDIS_BATCH_ROWS]
                # A row's beginning is the row of its embedding alone.
                raw: NDArray[np.uint8] = store.find(side, ids).raw[:, :row_size]
                writer.write(side, ids, raw, times_s=store.find_times(side, ids).astype(np.int64))
                bar.update(len(ids))
    if overlay is not None:
        writer.write_overlay_pointer(overlay.pointer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower precompute --delta", description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument("--release", help="id of a published release; the current one by default")
    parser.add_argument("--users", type=Path, help="Parquet: user_id and feature columns")
    parser.add_argument("--items", type=Path, help="Parquet: item_id and feature columns")
    add_redis_options(parser)
    parser.add_argument("--batch-rows", type=int, default=4096, help="rows computed at once")
    return parser
