"""What the runs on one data set share: tables, prepared data, teacher, candidates. Each is made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml

from offline.experiment.plan import DataIdentity
from offline.experiment.protocol import DatasetEntry
from offline.pipeline import imported_tables, is_canonical, run_step
from offline.prepare import prepare_folder
from offline.train import retrieve
from ranktower.data.dataset import TRAIN, UNUSED, PreparedDataset, with_content_id
from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.readers.catalogue import find_dataset
from ranktower.data.simulator import simulate
from ranktower.data.tables import SPEC_FILE, write_tables
from ranktower.errors import ConfigError
from ranktower.file_lock import file_lock
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder
from ranktower.training.teacher_folder import with_teacher


@dataclass(frozen=True)
class Workspace:
    """Folders of one data set below ``--work``.

    Attributes:
        path: of all that is not a result.
        prepared: of ``ranktower prepare``.
        teacher: of ``ranktower teach``; None where the data bring their own soft labels, or none.
        teacher_key: of how it is trained.
    """

    path: Path
    prepared: Path
    teacher: Path | None
    teacher_key: str | None = None

    def load(self) -> PreparedDataset:
        """The prepared data with the teacher's soft labels."""
        dataset = PreparedDataset.load(self.prepared, verify=False)
        return dataset if self.teacher is None else with_teacher(dataset, self.teacher)

    def identity(self, dataset: PreparedDataset) -> DataIdentity:
        """What tells the data, loaded or a part of them, and their teacher from others."""
        return DataIdentity(dataset.data_id, self.teacher_key)


def make_workspace(name: str, entry: DatasetEntry, source: Path | None, work: Path) -> Workspace:
    """Import or simulate, prepare, teach; what is there already is reused.

    Args:
        name: of the data set.
        entry: how it is prepared.
        source: original files or canonical tables; not needed for a simulated data set.
        work: folder for all data sets.

    Raises:
        ConfigError: there is no source.
        DataError: it holds no such data set.
    """
    path = work / name
    path.mkdir(parents=True, exist_ok=True)
    with file_lock(path / ".lock"):
        tables = _with_features(_tables(name, entry, source, path), entry.user_features, path)
        dataset, _ = prepare_folder(tables, path / "prepared", entry.prepare)
        if not entry.teacher:
            return Workspace(path, path / "prepared", None)
        teacher = _teach(path, dataset.data_id, entry)
    return Workspace(path, path / "prepared", teacher, _digest(_how_taught(entry)))


def _how_taught(entry: DatasetEntry) -> list[object]:
    """What the protocol says of the teacher; as with runs, what is left to its default is left out."""
    return [entry.teacher_config, *([entry.teacher_revision] if entry.teacher_revision else [])]


def _tables(name: str, entry: DatasetEntry, source: Path | None, path: Path) -> Path:
    if source is not None and is_canonical(source):
        return source
    if entry.simulator is not None:
        tables = path / f"tables-{_digest(asdict(entry.simulator))}"
        if not tables.is_dir():
            write_tables(tables, simulate(entry.simulator).tables)
        return tables
    if source is None:
        raise ConfigError(f"--dataset {name}: needs --data, the folder of its original files or of canonical tables")
    found, files = find_dataset(source)
    if found != name:
        raise ConfigError(f"--data {source}: holds the data set {found!r}, --dataset says {name!r}")
    return imported_tables(name, files, path / "tables")


def _with_features(tables: Path, features: Sequence[Feature], path: Path) -> Path:
    """The same tables under a specification with more user features."""
    if not features:
        return tables
    spec = FeatureSpec.load(tables / SPEC_FILE)
    more = spec.model_copy(update={"user_features": (*spec.user_features, *features)})
    folder = path / "tables-with-features"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in tables.glob("*.parquet"):
        (folder / file.name).symlink_to(file.resolve())
    more.dump(folder / SPEC_FILE)
    return folder


def _teach(path: Path, data_id: str, entry: DatasetEntry) -> Path:
    folder = path / f"teacher-{_digest([data_id, *_how_taught(entry)])}"
    options = ["--data", str(path / "prepared"), "--out", str(folder)]
    if entry.teacher_config:
        config = folder.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(entry.teacher_config), encoding="utf-8")
        options += ["--config", str(config)]
    run_step("teach", "teach", *options)
    return folder


def keep_users(dataset: PreparedDataset, num_users: int) -> PreparedDataset:
    """The data set in which only some users' interactions are used, drawn from those with training interactions.

    A smaller number draws a part of what a larger one draws. All users and items stay, with their row numbers.
    """
    interactions = dataset.interactions
    users = np.unique(interactions.user_row[interactions.split == TRAIN])
    if num_users >= len(users):
        return dataset
    kept = np.random.default_rng(0).permutation(users)[:num_users]
    split = np.where(np.isin(interactions.user_row, kept), interactions.split, UNUSED).astype(np.uint8)
    return with_content_id(replace(dataset, interactions=replace(interactions, split=split)))


def share_of_users(dataset: PreparedDataset, share: float) -> PreparedDataset:
    """``keep_users`` by a share of the users with training interactions, at least one."""
    interactions = dataset.interactions
    num_users = len(np.unique(interactions.user_row[interactions.split == TRAIN]))
    return keep_users(dataset, max(1, round(share * num_users)))


def link_candidates(
    workspace: Workspace, dataset: PreparedDataset, config: TrainConfig, run: RunFolder | None, device: torch.device
) -> RunFolder:
    """The retrieval model and what it found, one for all runs with the same settings for it, whatever their seed.

    With ``run`` both are put into its folder too, where training takes them from; they lie on disk once.

    Returns:
        The folder that they come from.
    """
    settings = {"widths": config.embedding_widths, **config.retrieval.model_dump(mode="json", exclude_defaults=True)}
    shared = RunFolder(workspace.path / f"retrieval-{_digest([dataset.data_id, settings])}")
    shared.path.mkdir(parents=True, exist_ok=True)
    with file_lock(shared.path / ".lock"):
        retrieve(dataset, config.model_copy(update={"seed": 0}), shared, device=device, show_bar=sys.stderr.isatty())
    if run is not None:
        run.path.mkdir(parents=True, exist_ok=True)
        for name in (shared.retrieval.name, shared.candidates.name):
            if not (run.path / name).exists():
                os.link(shared.path / name, run.path / name)
    return shared


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
