"""``ranktower precompute``: the exported towers over all users and items, into a release ready to be published."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offline.delta import main as delta
from offline.exported import ExportedModel, read_export, release_files, tower_rows
from offline.redis_target import add_redis_options, copy_to_redis, redis_options
from offline.row_bar import row_bar
from ranktower.data.dataset import PreparedDataset
from ranktower.data.dataset import Side as DatasetSide
from ranktower.embedding_store.codec import RowDtype, RowKind, RowLayout, Side
from ranktower.embedding_store.faiss_index import build_index, pooled_vectors
from ranktower.embedding_store.local import LocalTable, write_fallback_user
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ConfigError
from ranktower.file_lock import file_lock
from ranktower.ladder import LADDER_FILE
from ranktower.registry import STAGING, Registry
from ranktower.release import (
    MANIFEST,
    RETRIEVAL_INDEX,
    TABLES,
    Manifest,
    check_model_name,
    is_release_id,
    read_manifest,
    release_id,
    release_tag,
    write_manifest,
)
from ranktower.verification import content_hash, hash_files

if TYPE_CHECKING:
    from ranktower.training.run import TrainedRun

_LOCK = ".precompute.lock"


@dataclass(frozen=True)
class Inputs:
    """What a release is made of, all of one training run."""

    run: TrainedRun
    exported: ExportedModel
    dataset: PreparedDataset


@dataclass(frozen=True)
class RowFormat:
    """How a release stores its rows."""

    dtype: RowDtype = "float16"
    item_rows: RowKind = "projected"
    """Of the items' table; ``embedding`` rows take a fifth of the space and are projected for every request."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if "--delta" in argv:
        return delta([option for option in argv if option != "--delta"])
    options = _parser().parse_args(argv)
    if options.batch_rows < 1 or options.max_users < 0:
        raise ConfigError(f"--batch-rows {options.batch_rows} and --max-users {options.max_users} must be positive")
    redis = redis_options(options)
    started = time.monotonic()
    inputs = read_inputs(options.run, options.export, options.data)
    registry = Registry(options.registry)
    staging, manifest = precompute(
        inputs,
        registry,
        check_model_name(options.model),
        rows=RowFormat(options.dtype, options.item_rows),
        batch_rows=options.batch_rows,
        max_users=options.max_users,
    )
    if redis is not None:
        copy_to_redis(staging, manifest, redis)
    sys.stdout.write(
        f"precompute: release {manifest.release} of {manifest.num_users:,} users and {manifest.num_items:,} items, "
        f"{manifest.row_dtype} rows, {time.monotonic() - started:.1f} s; now 'ranktower publish'\n"
    )
    return 0


def read_inputs(run_folder: Path, export_folder: Path, data_folder: Path) -> Inputs:
    """Read the three, and refuse a mixture.

    Raises:
        ConfigError: one is missing or damaged, or they are not of one training run.
    """
    from ranktower.training.run import load_run_and_data  # here and in _make, because --delta needs no torch

    (run, dataset), exported = load_run_and_data(run_folder, data_folder), read_export(export_folder)
    if exported.run_id != run.run_id:
        raise ConfigError(f"{export_folder}: exported from run {exported.run_id}, {run_folder} is run {run.run_id}")
    return Inputs(run, exported, dataset)


def precompute(
    inputs: Inputs, registry: Registry, model: str, *, rows: RowFormat, batch_rows: int, max_users: int
) -> tuple[Path, Manifest]:
    """Put a release together in the registry's staging area, or go on with the one a killed run left.

    The same inputs give the same release: what was done is not done again. Waits for another run on the same model,
    which may be making this very release.

    Args:
        inputs: run, export and data.
        registry: where.
        model: name of the model in the registry.
        rows: how they are stored.
        batch_rows: rows computed at once, which bounds the memory.
        max_users: test users in the release's offline metrics; none are measured where 0.

    Returns:
        The folder, in staging or already published, and its manifest.

    Raises:
        ReleaseError: its rows cost too much quality.
    """
    folder = registry.root / model
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / _LOCK, on_wait=lambda: _say_waiting(folder)):
        release, created = _find_or_name(inputs, registry, model, rows)
        published = registry.release_dir(model, release)
        if published.is_dir():
            return published, read_manifest(published)
        staging = registry.staging_dir(model, release)
        staging.mkdir(parents=True, exist_ok=True)
        if not (staging / MANIFEST).is_file():
            draft = _draft(inputs, model, release, created, rows)
            _make(staging, draft, inputs, batch_rows=batch_rows, max_users=max_users)
        return staging, read_manifest(staging)


def _make(staging: Path, draft: Manifest, inputs: Inputs, *, batch_rows: int, max_users: int) -> None:
    """Write every file of the release, the manifest last."""
    from offline.quality import fallback_user, measure_quality, refuse_costly_rows, write_golden

    for leftover in staging.glob(".*.part"):  # of a file that a killed run was writing; it would be sealed as well
        leftover.unlink()
    for name, source in release_files(draft.row_dtype).items():
        shutil.copyfile(inputs.exported.folder / source, staging / name)
    sides: dict[Side, DatasetSide] = {"user": inputs.dataset.users, "item": inputs.dataset.items}
    for side, rows in sides.items():
        _write_side(staging / TABLES[side], inputs.exported, side, rows, draft.layout(side), batch_rows=batch_rows)
    items = LocalTable(staging / TABLES["item"], draft.layout("item"))
    _write_index(staging, items, draft.layout("item"), batch_rows=batch_rows)
    users = LocalTable(staging / TABLES["user"], draft.layout("user"))
    write_fallback_user(staging, draft.layout("user"), fallback_user(users))
    difference = write_golden(staging, draft, inputs.run.ranktower, inputs.dataset)
    metrics: dict[str, Any] = {}
    if max_users:
        metrics = measure_quality(staging, draft, run=inputs.run, dataset=inputs.dataset, max_users=max_users)
        refuse_costly_rows(metrics, draft)
    manifest = draft.model_copy(
        update={
            "files": hash_files(staging),
            "ladder": inputs.exported.ladder,
            "offline_metrics": metrics,
            "parity": inputs.exported.parity | {"stored_rows": difference},
        }
    )
    write_manifest(staging, Manifest.model_validate(manifest.model_dump()))


def _say_waiting(folder: Path) -> None:
    sys.stdout.write(f"precompute: waits for another one in {folder}\n")
    sys.stdout.flush()


def _find_or_name(inputs: Inputs, registry: Registry, model: str, rows: RowFormat) -> tuple[str, datetime]:
    """The release of these very inputs, published or begun before, or a new name."""
    used = {*release_files(rows.dtype).values(), LADDER_FILE}
    files = {name: entry for name, entry in hash_files(inputs.exported.folder).items() if name in used}
    key = f"{content_hash(files)} {inputs.dataset.data_id} {inputs.run.run_id} {rows.dtype} {rows.item_rows}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    staging = registry.root / model / STAGING
    begun = [folder.name for folder in staging.iterdir() if is_release_id(folder.name)] if staging.is_dir() else []
    known = sorted([*registry.releases(model), *begun], reverse=True)
    for release in known:
        if release.endswith(f"-{digest[:8]}"):
            return release, _created(release)
    created = datetime.now(UTC).replace(microsecond=0)
    if known:
        # Ids have whole seconds: two releases begun within one would sort by their hashes, and not as they were begun.
        created = max(created, _created(known[0]) + timedelta(seconds=1))
    return release_id(created, digest), created


def _created(release: str) -> datetime:
    return datetime.strptime(release[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _draft(inputs: Inputs, model: str, release: str, created: datetime, rows: RowFormat) -> Manifest:
    """The manifest before anything is measured or hashed."""
    return Manifest(
        model=model,
        release=release,
        tag=release_tag(release).hex(),
        created=created,
        shape=inputs.exported.shape,
        row_dtype=rows.dtype,
        item_rows=rows.item_rows,
        tau=inputs.exported.tau,
        num_users=len(inputs.dataset.users),
        num_items=len(inputs.dataset.items),
        training_run_id=inputs.exported.run_id,
        data_id=inputs.exported.data_id,
        config=inputs.exported.config,
        files={},
        fallback_user=True,
    )


def _write_side(
    folder: Path, exported: ExportedModel, side: Side, rows: DatasetSide, layout: RowLayout, *, batch_rows: int
) -> None:
    with row_bar(f"precompute {side}s", len(rows)) as bar:
        write_table(
            folder,
            rows.ids,
            tower_rows(exported.folder, side, rows.features, layout),
            layout,
            batch_size=batch_rows,
            on_batch=bar.update,
        )


def _write_index(staging: Path, items: LocalTable, layout: RowLayout, *, batch_rows: int) -> None:
    """Row numbers of the index are those of the table: both stand in the order of the ids."""
    vectors = [pooled_vectors(layout.decode(raw)["embedding"]) for _, raw in items.batches(batch_rows)]
    build_index(staging / RETRIEVAL_INDEX, np.concatenate(vectors))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ranktower precompute",
        description=__doc__,
        epilog="--delta puts new and changed users and items into a published release: 'precompute --delta --help'.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--export", type=Path, required=True, help="folder of 'ranktower export'")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data")
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the stored rows")
    parser.add_argument(
        "--item-rows",
        choices=("projected", "embedding"),
        default="projected",
        help="what the items' table holds: the projections too, or a fifth of the bytes and more work a request",
    )
    add_redis_options(parser)
    parser.add_argument("--batch-rows", type=int, default=4096, help="rows computed at once")
    parser.add_argument("--max-users", type=int, default=1000, help="test users in the offline metrics; 0: no metrics")
    return parser
