"""``ranktower calibrate``: what each level of the degradation ladder is worth, measured on validation users."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tqdm import tqdm

from model_export.calibration import ScoredList, build_ladder
from model_export.export_folder import read_description
from model_export.level_scorer import LevelScorer
from model_export.parity import embedding_rows
from ranktower.data.dataset import TRAIN, VALIDATION, Interactions, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.embedding_store.codec import RowDtype
from ranktower.embedding_store.durable import write_file
from ranktower.errors import ConfigError
from ranktower.ladder import LADDER_FILE, Ladder, LadderLevel
from ranktower.models import RankTower
from ranktower.release import export_name
from ranktower.training.evaluation import ModelScorer, encode_rows
from ranktower.training.run import TrainedRun, load_run_and_data
from ranktower.verification import content_hash, hash_file

Rows = NDArray[np.int64]


class TooFewUsersError(ConfigError):
    """Nothing can be measured on the validation split."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Over how many users and candidates, at which cut-off, with which shares of ``full_best``."""

    max_users: int = 500
    num_candidates: int = 1000
    k: int = 100
    shares: tuple[float, ...] = (0.5, 0.25, 0.1)

    def __post_init__(self) -> None:
        """ConfigError naming the option that is wrong."""
        for option, value, least in (
            ("--max-users", self.max_users, 2),  # one to fit on, one to measure on
            ("--candidates", self.num_candidates, 2),
            ("--k", self.k, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} must be at least {least}, got {value}")
        falling = all(before > after for before, after in pairwise((1.0, *self.shares, 0.0)))
        if not falling:
            raise ConfigError(f"--shares must fall and lie between 0 and 1, got {' '.join(map(str, self.shares))}")


@dataclass(frozen=True)
class Candidates:
    """What one user's levels are compared on: item rows ``[n]`` with labels ``[n]``."""

    user_row: int
    item_rows: Rows
    labels: NDArray[np.float32]


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower calibrate", description=__doc__)
    default = CalibrateOptions()
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished training run")
    parser.add_argument("--export", type=Path, required=True, help="folder of 'ranktower export'; gets ladder.json")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data it was trained on")
    parser.add_argument("--max-users", type=int, default=default.max_users, help="half fit the maps, half measure")
    parser.add_argument("--candidates", type=int, default=default.num_candidates, help="retrieved for each user")
    parser.add_argument("--k", type=int, default=default.k, help="cut-off of Recall and NDCG")
    parser.add_argument("--shares", type=float, nargs="*", default=default.shares, help="scored in full, falling")
    given = parser.parse_args(argv)
    options = CalibrateOptions(given.max_users, given.candidates, given.k, tuple(given.shares))
    calibrate(*load_run_and_data(given.run, given.data), given.export, options)
    return 0


def calibrate(run: TrainedRun, dataset: PreparedDataset, export: Path, options: CalibrateOptions) -> None:
    """Write ``ladder.json`` into the export, unless it is there of the very same inputs, and print what it says.

    Raises:
        ConfigError: ``export`` is no export of this run, or the run is of a model without a ladder.
        TooFewUsersError: validation has less than two users with a positive.
    """
    started = time.monotonic()
    model, description = run.ranktower, read_description(export)
    if description is None or description["run_id"] != run.run_id:
        raise ConfigError(f"{export}: no export of run {run.run_id}; run 'ranktower export'")
    graphs = {path.name: hash_file(path) for path in sorted(export.glob("*.onnx"))}
    of = {"run_id": run.run_id, "data_id": run.data_id, "graphs": content_hash(graphs), **asdict(options)}
    of["shares"] = list(options.shares)
    levels = _levels_of(export / LADDER_FILE, of)
    told = "reused from"
    if levels is None:
        told = "written to"
        lists = _score(model, dataset, export, draw_candidates(run, dataset, options))
        levels = build_ladder(lists, k=options.k, shares=options.shares)
        content = Ladder(of=of, levels=levels).model_dump_json(indent=2)
        write_file(export / LADDER_FILE, f"{content}\n".encode())
    sys.stdout.write(_table(levels))
    sys.stdout.write(f"calibrate: {told} {export / LADDER_FILE}, {time.monotonic() - started:.1f} s\n")


def _levels_of(path: Path, of: dict[str, Any]) -> tuple[LadderLevel, ...] | None:
    """What an earlier run measured, if it was of the same; a file that cannot be read is measured anew."""
    if not path.is_file():
        return None
    try:
        ladder = Ladder.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    return ladder.levels if ladder.of == of else None


def draw_candidates(run: TrainedRun, dataset: PreparedDataset, options: CalibrateOptions) -> list[Candidates]:
    """For each drawn user the first candidates of the run's retrieval model, and the impressions of validation."""
    interactions = dataset.interactions
    impressions = interactions.stage == STAGES.index("impression")
    shown = interactions.take(np.flatnonzero(impressions & (interactions.split == VALIDATION)))
    seen = interactions.take(np.flatnonzero(interactions.split == TRAIN))
    users = np.unique(shown.user_row[shown.feedback > 0])
    if len(users) < 2:
        raise TooFewUsersError(f"validation has {len(users)} users with a positive, a ladder needs 2")
    users = np.random.default_rng(0).permutation(users)[: options.max_users]
    retrieval = ModelScorer.encode(run.retrieval_model(), dataset)
    corpus, drawn = np.arange(len(dataset.items)), []
    for user in _bar(users.tolist(), "calibrate candidates"):
        own = shown.take(_span(shown, user))
        scores = retrieval(user, corpus)
        scores[seen.item_row[_span(seen, user)]] = -np.inf
        first = np.argsort(-scores, kind="stable")[: options.num_candidates]
        items = np.union1d(first[np.isfinite(scores[first])], own.item_row)
        labels = np.zeros(len(items), dtype=np.float32)
        labels[np.searchsorted(items, own.item_row)] = own.feedback
        drawn.append(Candidates(user, items, labels))
    return drawn


def _score(model: RankTower, dataset: PreparedDataset, export: Path, drawn: Sequence[Candidates]) -> list[ScoredList]:
    """Scores by the exported graphs, over rows as a release stores them."""
    users = np.array([one.user_row for one in drawn])
    items = np.unique(np.concatenate([one.item_rows for one in drawn]))
    (user_embedding,) = encode_rows(model, dataset.users.features.take(users), lambda rows: (model.user_tower(rows),))
    (item_embedding,) = encode_rows(model, dataset.items.features.take(items), lambda rows: (model.item_tower(rows),))
    largest = max(float(user_embedding.abs().max()), float(item_embedding.abs().max()))
    dtype: RowDtype = "float16" if largest <= np.finfo(np.float16).max else "float32"
    user_rows, item_rows = (embedding_rows(embedding, dtype) for embedding in (user_embedding, item_embedding))
    scorer = LevelScorer(export, name=partial(export_name, dtype=dtype))
    return [
        scorer.score(user_rows[index : index + 1], item_rows[np.searchsorted(items, one.item_rows)], one.labels)
        for index, one in enumerate(_bar(drawn, "calibrate scores"))
    ]


def _span(sorted_by_user: Interactions, user: int) -> slice:
    start, end = np.searchsorted(sorted_by_user.user_row, [user, user + 1])
    return slice(int(start), int(end))


def _bar(work: Sequence[Any], name: str) -> tqdm[Any]:
    return tqdm(work, desc=name, unit="user", disable=None, leave=False)


def _table(levels: Sequence[LadderLevel]) -> str:
    k, users, candidates = levels[0].k, levels[0].num_users, levels[0].num_candidates
    lines = [f"\n  validation, {users:,} users, {candidates:,} candidates a user"]
    lines.append(f"  {'level':<16}{f'NDCG@{k}':>10}{f'Recall@{k}':>12}{'NDCG to full':>15}{'Recall to full':>17}")
    for level in levels:
        name = f"{level.level} {level.share:g}" if level.level == "full_best" else level.level
        figures = f"{level.ndcg:>10.4f}{level.recall:>12.4f}{level.ndcg_to_full:>15.4f}{level.recall_to_full:>17.4f}"
        lines.append(f"  {name:<16}{figures}")
    return "\n".join(lines) + "\n\n"
