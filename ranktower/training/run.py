"""The folder of a training run: what is in it, and reading it back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranktower.data.dataset import PreparedDataset
from ranktower.data.encoder import FeatureEncoder
from ranktower.errors import ConfigError
from ranktower.models import PreRanker, RankTower, TwoTower, build_model
from ranktower.training.checkpoint import load_tensors
from ranktower.training.config import TrainConfig
from ranktower.training.tensors import side_sizes


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole configuration, defaults included."""
        return self.path / "config.yaml"

    @property
    def features(self) -> Path:
        """Vocabularies and bin edges."""
        return self.path / "features.json"

    @property
    def checkpoint(self) -> Path:
        """State to go on from."""
        return self.path / "checkpoint.safetensors"

    @property
    def model(self) -> Path:
        """The best model; there once training ended."""
        return self.path / "model.safetensors"

    @property
    def retrieval(self) -> Path:
        """The two-tower retrieval model."""
        return self.path / "retrieval.safetensors"

    @property
    def candidates(self) -> Path:
        """What it retrieved, item rows ``[num_users, C]``."""
        return self.path / "candidates.npy"

    @property
    def metrics(self) -> Path:
        """Losses, validations and evaluations."""
        return self.path / "metrics.json"

    @property
    def curve(self) -> Path:
        """The same as a plot."""
        return self.path / "curve.png"


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        run_id: first 12 hex digits of the SHA-256 of the model's file.
        data_id: of the prepared data it was trained on.
    """

    folder: RunFolder
    config: TrainConfig
    encoder: FeatureEncoder
    model: PreRanker
    run_id: str
    data_id: str

    @property
    def ranktower(self) -> RankTower:
        """The model, where a release is made of it.

        Raises:
            ConfigError: the run trained another model, which no release can hold.
        """
        if not isinstance(self.model, RankTower):
            name = self.config.model.name
            raise ConfigError(f"{self.folder.path}: trained model.name {name!r}; a release holds 'ranktower' alone")
        return self.model

    def retrieval_model(self) -> TwoTower:
        """The two-tower retrieval model of the run."""
        return load_retrieval(self.folder, self.config, self.encoder)


def load_retrieval(folder: RunFolder, config: TrainConfig, encoder: FeatureEncoder) -> TwoTower:
    """Read the retrieval model of a run, finished or not; ConfigError if it is missing or damaged."""
    model = TwoTower(config.retrieval.model, *side_sizes(encoder, config.embedding_widths))
    model.load_state_dict(load_tensors(folder.retrieval)[0])
    return model.eval()


def load_run(path: Path) -> TrainedRun:
    """Read a finished run.

    Raises:
        ConfigError: the folder holds no finished run; says which file is missing or damaged.
    """
    folder = RunFolder(path)
    for needed in (folder.config, folder.features, folder.model):
        if not needed.is_file():
            raise ConfigError(f"{path}: no finished training run, {needed.name} is missing; run 'ranktower train'")
    config, encoder = TrainConfig.load(folder.config), FeatureEncoder.load(folder.features)
    model = build_model(config.model, *side_sizes(encoder, config.embedding_widths))
    tensors, about = load_tensors(folder.model)
    model.load_state_dict(tensors)
    run_id = hashlib.sha256(folder.model.read_bytes()).hexdigest()[:12]
    return TrainedRun(folder, config, encoder, model.eval(), run_id, about["data_id"])


def load_run_and_data(run_folder: Path, data_folder: Path) -> tuple[TrainedRun, PreparedDataset]:
    """Read a finished run and the prepared data it was trained on.

    Raises:
        ConfigError: as ``load_run``; or these are other data.
    """
    run, dataset = load_run(run_folder), PreparedDataset.load(data_folder)
    if dataset.data_id != run.data_id:
        raise ConfigError(f"{data_folder}: data_id {dataset.data_id[:12]}, the run was trained on {run.data_id[:12]}")
    return run, dataset


def read_metrics(folder: RunFolder) -> dict[str, Any]:
    """The metrics file, or nothing where there is none yet."""
    if not folder.metrics.is_file():
        return {}
    content: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
    return content


def write_metrics(folder: RunFolder, content: dict[str, Any]) -> None:
    """Replace the metrics file, aside and renamed."""
    aside = folder.metrics.with_name(f".{folder.metrics.name}.part")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    aside.replace(folder.metrics)
