"""What a release's rows are worth: scores of stored rows, offline metrics, golden pairs, all computed with torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ranktower.blocks import ProjectedRows
from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.codec import ARRAYS, Side
from ranktower.embedding_store.local import LocalTable
from ranktower.errors import ReleaseError
from ranktower.models import RankTower
from ranktower.models.pre_ranker import Rows
from ranktower.release import GOLDEN, TABLES, Manifest
from ranktower.training.config import POOLS
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.run import TrainedRun

GOLDEN_USERS, GOLDEN_ITEMS = 16, 20
# What the rounding of stored rows may cost; measured on real models it is under a thousandth of this.
MAX_NDCG_CHANGE = 0.001


@dataclass(frozen=True)
class Quality:
    """What the manifest says of a release's rows."""

    offline_metrics: dict[str, Any]
    parity: dict[str, float]


def measure_quality(
    folder: Path, manifest: Manifest, *, run: TrainedRun, dataset: PreparedDataset, max_users: int | None
) -> Quality:
    """Write ``golden.npz`` and evaluate the stored rows beside torch's own in float32.

    Args:
        folder: the release in the making, its tables written.
        manifest: gives the layouts and tau.
        run: the trained model.
        dataset: what the tables were computed from.
        max_users: test users to evaluate; all where None.
    """
    exact = ModelScorer.encode(run.model, dataset)
    stored = _stored_scorer(run.model, folder, manifest, dataset)
    parity = {"stored_rows": _write_golden(folder / GOLDEN, exact, stored, dataset, tau=manifest.tau)}
    options = EvaluationOptions(max_users=max_users)
    metrics: dict[str, Any] = {}
    for pool in POOLS:
        chosen = replace(options, pool=pool)
        results = {
            "float32_rows": evaluate(exact, dataset, chosen, progress=True),
            f"{manifest.row_dtype}_stored_rows": evaluate(stored, dataset, chosen, progress=True),
        }
        metrics[pool] = {name: result.summary() for name, result in results.items()}
        before, after = results.values()
        metrics[pool]["ndcg_change"] = abs(before.ndcg - after.ndcg)
    unknown = tuple(
        array.expand(len(dataset.users), *array.shape[1:]) for array in fallback_user(run.model, exact.users)
    )
    fallback = ModelScorer(run.model, unknown, exact.items)
    metrics["fallback_user"] = evaluate(fallback, dataset, options, progress=True).summary()
    return Quality(metrics, parity)


def refuse_costly_rows(quality: Quality, manifest: Manifest) -> None:
    """No release whose stored rows rank otherwise than the model: ReleaseError names pool, figure and way out."""
    for pool in POOLS:
        change = quality.offline_metrics[pool]["ndcg_change"]
        if not change <= MAX_NDCG_CHANGE:
            raise ReleaseError(
                f"release {manifest.release}: {manifest.row_dtype} rows move NDCG in pool {pool!r} by {change:.2g}, "
                f"more than {MAX_NDCG_CHANGE}; run 'ranktower precompute --dtype float32'"
            )


def fallback_user(model: RankTower, users: Rows) -> ProjectedRows:
    """The user nothing is known of: the mean of all users' multi-embeddings, projected like any other ``[1, Hu, *]``.

    The tower at out-of-vocabulary features would not do: training never sees those, so their embeddings are noise.
    """
    with torch.inference_mode():
        return model.cross_attention.project_users(users[0].mean(dim=0, keepdim=True))


def _stored_scorer(model: RankTower, folder: Path, manifest: Manifest, dataset: PreparedDataset) -> ModelScorer:
    """The scorer over the rows as they are stored in a release, in the data set's order."""
    users = _stored(folder, manifest, "user", dataset.users.ids)
    return ModelScorer(model, users, _stored(folder, manifest, "item", dataset.items.ids))


def _stored(folder: Path, manifest: Manifest, side: Side, ids: NDArray[np.object_]) -> Rows:
    layout = manifest.layout(side)
    arrays = layout.decode(LocalTable(folder / TABLES[side], layout).fetch(ids.tolist()).raw)
    return tuple(torch.from_numpy(arrays[name]) for name in ARRAYS)


def _write_golden(
    path: Path, exact: ModelScorer, stored: ModelScorer, dataset: PreparedDataset, *, tau: float
) -> float:
    """Pairs with torch's scores, on the stored rows and in full precision; returns their greatest difference."""
    generator = np.random.default_rng(0)
    users = generator.permutation(len(dataset.users))[:GOLDEN_USERS]
    pairs = [(user, generator.permutation(len(dataset.items))[:GOLDEN_ITEMS]) for user in users]
    golden: Mapping[str, NDArray[Any]] = {
        "user_ids": np.repeat(dataset.users.ids[users].astype(str), [len(items) for _, items in pairs]),
        "item_ids": np.concatenate([dataset.items.ids[items] for _, items in pairs]).astype(str),
        "scores": np.concatenate([stored(int(user), items) for user, items in pairs]),
        "scores_fp32": np.concatenate([exact(int(user), items) for user, items in pairs]),
    }
    with path.open("wb") as file:
        np.savez(file, **golden)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array
    return float(np.abs(golden["scores"] - golden["scores_fp32"]).max()) * tau
