"""A protocol of two models that is run in seconds, and results made up from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from offline.experiment.plan import DataIdentity, PlannedRun
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, pack, write_json

_PROTOCOL = """
seeds: 2
datasets:
  tiny:
    title: tiny cascade
    prepare: {min_impressions: 20, min_positives: 3}
    simulator: {num_users: 150, num_items: 300, requests_per_user: 8.0, seed: 5}
    teacher: false
    teacher_config: {members: [{name: deepfm, width: 4, hidden: [8]}], num_folds: 2, max_epochs: 1, batch_pairs: 128}
base:
  retrieval: {model: {width: 16, hidden: [32]}, epochs: 1, num_retrieved: 50}
  sampling: {max_impressions: 20, num_candidates: 5, num_random: 10}
  validation: {every_steps: 1000, patience: 50, k: 20}
  learning_rate: 0.005
  batch_lists: 16
  max_epochs: 2
  checkpoint_every_steps: 2
models:
  two_tower:
    title: Two-Tower
    base: {model: {name: two_tower, width: 16, hidden: [32]}}
    search: {model.width: {choices: [16, 32]}}
  ranktower:
    title: RankTower
    base: {model: {num_user_heads: 2, num_item_heads: 3, width: 16, attention_width: 8, hidden: [32]}}
    search: {model.hidden: {choices: [[32], [64, 32]]}, loss.alpha: {low: 2.0, high: 5.0}}
tables:
  "1":
    title: Models
    reference: ranktower
    rows:
      - {name: two_tower, model: two_tower, title: Two-Tower, paper: {tiny: [0.5, 0.3]}}
      - {name: ranktower, title: RankTower, paper: {tiny: [0.6, 0.33]}}
  "2":
    title: Sampling
    reference: ranktower
    rows:
      - {name: ranktower, title: full-stage}
      - {name: no-random, title: without random, change: {sampling: {num_random: 0}}}
extras:
  heads:
    title: Heads
    seeds: 1
    rows: [{name: heads-1x1, title: 1 x 1, change: {model: {num_user_heads: 1, num_item_heads: 1}}}]
  learning_curve:
    title: Amount
    seeds: 1
    train_users: [0.5, 1.0]
    rows: [{name: ranktower, title: RankTower}]
tuning: {num_trials: 1, num_users: 60, change: {max_epochs: 1}}
test:
  k: 20
  impressions_k: 5
  consistency: {num_users: 20, num_candidates: 40}
  calibration: {num_users: 30, num_bins: 4}
significance: {num_draws: 50}
cost: {num_candidates: 50, num_rounds: 2, runs_a_round: 2}
"""


@pytest.fixture
def content() -> dict[str, Any]:
    """The protocol as plain values, to be changed."""
    values: dict[str, Any] = yaml.safe_load(_PROTOCOL)
    return values


@pytest.fixture
def protocol(content: dict[str, Any]) -> Protocol:
    return Protocol.parse(content, where="tiny")


@pytest.fixture
def protocol_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(_PROTOCOL, encoding="utf-8")
    return path


@pytest.fixture
def identity() -> DataIdentity:
    return DataIdentity("d" * 64, "t" * 64)


@pytest.fixture
def folder(tmp_path: Path, identity: DataIdentity) -> ResultFolder:
    """Results on a data set that exists only here."""
    folder = ResultFolder(tmp_path / "results" / "tiny")
    evaluation = {"recall": 0.1, "ndcg": 0.05, "num_users": 40, "k": 20}
    counts = {"active_users": 147, "items": 300, "train": 6000, "validation": 900, "test": 1800}
    about = {"data_id": identity.data_id, "teacher_key": identity.teacher_key, "title": "tiny cascade"}
    about |= {"counts": counts, "options": {"min_impressions": 20, "min_positives": 3}, "teacher": None}
    popularity = {"full_corpus": evaluation, "impressions": evaluation | {"k": 5}}
    write_json(folder.dataset, about | {"popularity": popularity})
    return folder


@pytest.fixture
def write_result(folder: ResultFolder, identity: DataIdentity) -> Callable[..., Path]:
    """``write_result(run, ndcg=0.3)``: the result of a run, all users with about this NDCG."""

    def write(run: PlannedRun, *, ndcg: float, **changes: Any) -> Path:
        users = np.clip(np.random.default_rng(run.config.seed).normal(ndcg, 0.05, size=40), 0, 1)
        figures = {"recall": 2 * ndcg, "ndcg": float(users.mean()), "num_users": 40}
        bins = {"ece": 0.02, "predicted": [0.1, 0.9], "observed": [0.2, 0.8]}
        steps = {"best_step": 10 + 5 * run.config.seed, "steps": 20, "steps_per_epoch": 10}
        path = folder.run(run, identity)
        made: dict[str, Any] = {
            "key": run.key(identity),
            "name": run.name,
            "seed": run.config.seed,
            "config": run.config.model_dump(mode="json"),
            "test": run.test.model_dump(mode="json"),
            "date": "2026-01-02",
            "command": "ranktower experiment",
            "machine": {"cpu": "a CPU", "num_cores": 2},
            "versions": {"python": "3.11"},
            "training": {"num_parameters": 1000, "seconds": 12.5, "pairs_per_s": 5000, **steps},
            "metrics": {"full_corpus": figures, "impressions": figures},
            "per_user": {"ndcg": pack(users), "recall": pack(users)},
            "consistency": {"overlap@10": 0.4, "overlap@100": 0.6, "survival": 0.9},
            "calibration": {"raw": bins, "platt": {**bins, "slope": 1.0, "offset": 0.0}},
        }
        write_json(path, made | changes)
        return path

    return write
