"""What serving a model costs: its exported scorer on one thread of ONNX Runtime, all models in one process in turn."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from offline.experiment.protocol import CostOptions
from offline.experiment.results import circumstances
from offline.experiment.workspace import Workspace
from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError, RankTowerError
from ranktower.models import build_model
from ranktower.onnx_runtime import onnxruntime
from ranktower.release import SCORERS, export_name
from ranktower.training.checkpoint import save_tensors
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder
from ranktower.training.tensors import side_sizes

_SCORER = "scorer.onnx"
_DTYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_MICROSECONDS = 1e6


def measure_cost(
    configs: Sequence[TrainConfig], workspace: Workspace, options: CostOptions, command: str
) -> dict[str, Any]:
    """Microseconds of one user against ``options.num_candidates`` items, for each of ``configs``.

    A graph's time depends on its shape and not on what its weights learned, so the exported models are untrained and no
    training run has to be at hand. Every round runs each model in turn: a ratio holds where absolute times do not.

    Raises:
        ConfigError: none of the models is the reference.
    """
    reference = next((place for place, of in enumerate(configs) if of.model.name == options.reference), None)
    if reference is None:
        raise ConfigError(f"protocol, cost: reference {options.reference!r} is no model of Table 1")
    dataset = PreparedDataset.load(workspace.prepared, verify=False)
    folder = workspace.path / "cost"
    shutil.rmtree(folder, ignore_errors=True)
    runners = [
        _Runner(_export(config, dataset, workspace.prepared, folder / str(place)), options.num_candidates)
        for place, config in enumerate(tqdm(configs, desc="export", unit="model", disable=None))
    ]
    times = np.array(
        [
            [runner.seconds(options.runs_a_round) for runner in runners]
            for _ in tqdm(range(options.num_rounds), desc="cost", unit="round", disable=None)
        ]
    )
    # [rounds, models, runs] to the median of a round, so that one slow moment weighs little.
    rounds: NDArray[np.float64] = np.median(times, axis=2)
    ratios = rounds / rounds[:, reference, None]
    shutil.rmtree(folder)
    return {
        **circumstances(command),
        "data_id": dataset.data_id,
        "options": options.model_dump(mode="json"),
        "models": [
            {
                "model": config.model.model_dump(mode="json"),
                "us": round(float(np.median(rounds[:, place])) * _MICROSECONDS, 1),
                "us_p10": round(float(np.quantile(rounds[:, place], 0.1)) * _MICROSECONDS, 1),
                "us_p90": round(float(np.quantile(rounds[:, place], 0.9)) * _MICROSECONDS, 1),
                "ratio": round(float(np.median(ratios[:, place])), 3),
            }
            for place, config in enumerate(configs)
        ],
    }


def is_measured(found: dict[str, Any], configs: Sequence[TrainConfig], options: CostOptions, *, data_id: str) -> bool:
    """Whether a result of ``measure_cost`` is of these models, options and data."""
    models = [config.model.model_dump(mode="json") for config in configs]
    asked = [data_id, options.model_dump(mode="json"), models]
    return asked == [found["data_id"], found["options"], [row["model"] for row in found["models"]]]


def _export(config: TrainConfig, dataset: PreparedDataset, prepared: Path, folder: Path) -> Path:
    """``ranktower export`` of an untrained model; returns its scorer."""
    run = RunFolder(folder / "run")
    run.path.mkdir(parents=True)
    torch.manual_seed(config.seed)
    model = build_model(config.model, *side_sizes(dataset.encoder, config.embedding_widths))
    config.dump(run.config)
    dataset.encoder.save(run.features)
    save_tensors(run.model, dict(model.state_dict()), {"data_id": dataset.data_id, "step": 0})
    options = ("--run", str(run.path), "--data", str(prepared), "--out", str(folder / "export"), "--no-ladder")
    command = [sys.executable, "-m", "ranktower.cli", "export", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RankTowerError(f"model {config.model.name}: 'ranktower export' failed: {done.stderr.strip()}")
    # RankTower's export has a scorer for each dtype of rows; the others' rows are float32.
    own = folder / "export" / export_name(SCORERS["projected"], "float32")
    return own if own.is_file() else folder / "export" / _SCORER


class _Runner:
    """One scorer with inputs of its declared shapes, an axis without a size being the candidates."""

    def __init__(self, path: Path, num_candidates: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        generator = np.random.default_rng(0)
        self.inputs = {}
        for one in self.session.get_inputs():
            shape = [size if isinstance(size, int) else num_candidates for size in one.shape]
            self.inputs[one.name] = generator.standard_normal(shape).astype(_DTYPES[one.type])
        self.session.run(None, self.inputs)

    def seconds(self, runs: int) -> list[float]:
        """The time of each of ``runs`` runs, after one that warms the caches."""
        self.session.run(None, self.inputs)
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            self.session.run(None, self.inputs)
            times.append(time.perf_counter() - started)
        return times
