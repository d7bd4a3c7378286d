"""``ranktower pipeline``: from logs to a promoted release, as an unattended job.

Every step is the command that a user would type, run as its own process. Run again, it reuses what is done and goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offline.exported import read_export
from offline.redis_target import add_redis_options
from ranktower.data.readers.catalogue import find_dataset
from ranktower.data.tables import TABLE_FILES
from ranktower.embedding_store.durable import write_file
from ranktower.errors import ConfigError, RankTowerError, ReleaseError
from ranktower.file_lock import file_lock
from ranktower.registry import STAGING, Registry
from ranktower.release import MANIFEST, check_model_name, is_release_id, read_manifest

INFO_FILE = "info.json"
DATA_DIR = "RANKTOWER_DATA_DIR"
CONFIG = Path(__file__).with_name("demo.yaml")
SIMULATED_USERS, SIMULATED_ITEMS = 6000, 4000
_PROMOTED, _LOCK, _REMOVED = "promoted", ".lock", ".removed"


@dataclass(frozen=True)
class Target:
    """Where a release goes, and what is put in front of it there."""

    registry: Path
    model: str
    store: Sequence[str] = ()
    """Options of the commands that also write to Redis."""
    deltas: Mapping[str, Path] = field(default_factory=dict)
    """``items``, ``users``: tables of what came since the data."""

    @property
    def options(self) -> tuple[str, ...]:
        """What every command that touches the registry is told."""
        return ("--registry", str(self.registry), "--model", self.model)


@dataclass(frozen=True)
class Training:
    """How a release is trained and how much it is tested."""

    config: Path = CONFIG
    max_users: int = 1000
    """Test users to evaluate."""

    def config_bytes(self) -> bytes:
        """The training configuration as it stands in its file; ConfigError where that cannot be read."""
        try:
            return self.config.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.config}: cannot be read: {error.strerror}") from None


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    with file_lock(options.work / _LOCK, on_wait=lambda: say(f"Waiting for another pipeline in {options.work}")):
        _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    source = options.data or (Path(os.environ[DATA_DIR]) if os.environ.get(DATA_DIR) else None)
    store = [] if options.store == "local" else ["--store", options.store]
    store += ["--redis-cluster"] if options.redis_cluster else []
    deltas = {"items": options.delta_items, "users": options.delta_users}
    named = {side: path for side, path in deltas.items() if path is not None}
    target = Target(options.registry, check_model_name(options.model), store, named)
    if source is None:
        size = options.simulated_users, options.simulated_items
        tables = simulated_tables(options.work / "simulator-{}x{}".format(*size) / "tables", *size)
    elif is_canonical(source):
        say(f"Data: canonical tables in {source}")
        tables = source
    else:
        name, files = find_dataset(source)
        say(f"Data: {name} in {files}")
        tables = imported_tables(name, files, options.work / name / "tables")
    # One folder for each source, so that going back to an earlier one reuses what was made of it.
    work = options.work / "own" if tables == source else tables.parent
    training = Training(options.config, options.max_users)
    make_release(tables, work, target, training, promoted=options.work / _PROMOTED)


def is_canonical(folder: Path) -> bool:
    """Whether a folder holds canonical tables with their specification, which need no import."""
    return all((folder / name).is_file() for name in TABLE_FILES)


def simulated_tables(tables: Path, num_users: int = SIMULATED_USERS, num_items: int = SIMULATED_ITEMS) -> Path:
    """The tables of the cascade simulator, made once."""
    if tables.is_dir():
        say(f"[simulate] reused, {tables} is there")
    else:
        size = ("--users", str(num_users), "--items", str(num_items))
        run_step("simulate", "data", "simulate", "--out", str(tables), *size)
    return tables


def imported_tables(name: str, source: Path, tables: Path) -> Path:
    """The tables of these very files, made once: a large log takes minutes to read."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    stats = [(str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((str(source.resolve()), stats)).encode()).hexdigest()
    known = tables.with_name("tables.source")
    if tables.is_dir() and known.is_file() and known.read_text() == key:
        say(f"[import] reused, {tables} is of these files")
        return tables
    known.unlink(missing_ok=True)
    run_step("import", "data", "import", name, "--source", str(source), "--out", str(tables))
    known.write_text(key)
    return tables


def make_release(tables: Path, work: Path, target: Target, options: Training, *, promoted: Path | None = None) -> None:
    """Prepare, train, evaluate, export, precompute, publish, promote; each step finds for itself what is done.

    Args:
        tables: canonical tables.
        work: folder for what is made of them.
        target: where the release goes.
        options: how it is trained.
        promoted: remembers which release was promoted last. With it, one that has been is not promoted again: who
            rolled it back since then had a reason. And the runs before the promoted one are removed.
    """
    config, data = options.config_bytes(), str(work / "prepared")
    run_step("prepare", "prepare", "--tables", str(tables), "--out", data)
    # Another configuration or other data is another run, and has its own folders.
    identity = config + json.loads((work / "prepared" / INFO_FILE).read_bytes())["data_id"].encode()
    key = hashlib.sha256(identity).hexdigest()[:8]
    run, export = (str(work / f"{name}-{key}") for name in ("run", "export"))
    run_step("train", "train", "--data", data, "--out", run, "--config", str(options.config))
    run_step("evaluate", "evaluate", "--run", run, "--data", data, "--max-users", str(options.max_users))
    run_step("export", "export", "--run", run, "--data", data, "--out", export)
    inputs = ("--run", run, "--export", export, "--data", data)
    measured = ("--max-users", str(min(options.max_users, 300)))
    run_step("precompute", "precompute", *inputs, *target.options, *target.store, *measured)
    registry = Registry(target.registry)
    release = _release_of(Path(export), registry, target.model)
    run_step("publish", "publish", *target.options, "--release", release)
    has_been = promoted is not None and promoted.is_file() and promoted.read_text().strip() == release
    if has_been and (pointer := registry.current(target.model)) is not None:
        say(f"[promote] {release} has been promoted before; {pointer.release} stays the one served")
        return
    _apply_deltas(release, target)
    run_step("promote", "promote", *target.options, *target.store, "--release", release)
    if promoted is not None:
        write_file(promoted, f"{release}\n".encode())
        _remove_all_but(key, work)


def _apply_deltas(release: str, target: Target) -> None:
    """Without them, what came since the data would be missing from the promotion to the next delta."""
    tables: list[str] = []
    for side, path in target.deltas.items():
        if path.is_file():
            tables += [f"--{side}", str(path)]
        else:
            say(f"[delta] {path} is not there: no {side} have come since")
    if tables:
        run_step("delta", "precompute", "--delta", *target.options, *target.store, "--release", release, *tables)


def _remove_all_but(key: str, work: Path) -> None:
    """Remove the other runs of this source with their exports, each as large as its candidates of every user.

    They are moved aside first, so that a removal that is killed leaves no half of a run to be gone on with.
    """
    aside = work / _REMOVED
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    for folder in sorted(work.iterdir()):
        if (found := re.fullmatch(r"(?:run|export)-([0-9a-f]{8})", folder.name)) and found[1] != key:
            folder.rename(aside / folder.name)
            say(f"[promote] removing {folder}, which is of an earlier run")
    shutil.rmtree(aside)


def _release_of(export: Path, registry: Registry, model: str) -> str:
    """The release that was precomputed from an export, staged or published."""
    run_id = read_export(export).run_id
    staging = registry.root / model / STAGING
    staged = [path.parent for path in staging.glob(f"*/{MANIFEST}") if is_release_id(path.parent.name)]
    folders = [*staged, *(registry.release_dir(model, release) for release in registry.releases(model))]
    made = [folder.name for folder in folders if _run_id_of(folder) == run_id]
    if not made:
        raise RankTowerError(f"{registry.root / model}: no release of training run {run_id}, staged or published")
    return max(made)


def _run_id_of(folder: Path) -> str | None:
    """The training run of a release; None for one that cannot be read, as of an earlier format: it is not a new one."""
    try:
        return read_manifest(folder).training_run_id
    except ReleaseError:
        return None


def run_step(name: str, *command: str) -> None:
    """Run one ``ranktower`` command and show its time.

    Raises:
        RankTowerError: it failed; it has said why itself.
    """
    say(f"\n[{name}] ranktower {' '.join(command)}")
    started = time.monotonic()
    status = subprocess.run([sys.executable, "-m", "ranktower.cli", *command], check=False).returncode
    if status:
        raise RankTowerError(f"step {name!r} ended with status {status}")
    say(f"[{name}] {time.monotonic() - started:.1f} s")


def say(text: str) -> None:
    """One line to standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower pipeline", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for tables, runs and exports; kept between runs"
    )
    parser.add_argument("--registry", type=Path, required=True, help="folder of all releases")
    parser.add_argument("--model", default="ranktower", help="name of the model in the registry")
    parser.add_argument(
        "--data",
        type=Path,
        help=f"folder of a known data set's original files or of canonical tables; by default {DATA_DIR}, and without "
        "it the cascade simulator",
    )
    for side, default in (("users", SIMULATED_USERS), ("items", SIMULATED_ITEMS)):
        parser.add_argument(f"--simulated-{side}", type=int, default=default, help="of the simulator's cascade")
    parser.add_argument("--config", type=Path, default=CONFIG, help="training configuration")
    parser.add_argument("--max-users", type=int, default=1000, help="test users to evaluate")
    for side in ("items", "users"):
        parser.add_argument(
            f"--delta-{side}",
            type=Path,
            help=f"Parquet as for 'ranktower precompute --delta --{side}': put in front of the new release before it "
            "is promoted, if the file is there",
        )
    add_redis_options(parser)
    return parser
