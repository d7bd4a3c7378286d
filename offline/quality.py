"""What a release's rows are worth: scores of stored rows, offline metrics, golden pairs, all computed with torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ranktower.data.dataset import PreparedDataset
from ranktower.embedding_store.codec import RowLayout, Side
from ranktower.embedding_store.faiss_index import load_index, pooled_vectors, search
from ranktower.embedding_store.local import LocalTable, read_fallback_user
from ranktower.errors import ReleaseError
from ranktower.models import RankTower
from ranktower.models.pre_ranker import Rows
from ranktower.release import GOLDEN, RETRIEVAL_INDEX, TABLES, Manifest
from ranktower.training.config import POOLS
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, encode_rows, evaluate
from ranktower.training.run import TrainedRun

GOLDEN_USERS, GOLDEN_ITEMS = 16, 20
RETRIEVED, RETRIEVAL_USERS = 1000, 200
_BATCH_ROWS = 4096
# What the rounding of stored rows may cost; measured on real models it is under a thousandth of this.
MAX_NDCG_CHANGE = 0.001


def measure_quality(
    folder: Path, manifest: Manifest, *, run: TrainedRun, dataset: PreparedDataset, max_users: int
) -> dict[str, Any]:
    """Evaluate the stored rows beside torch's own in float32; the manifest's ``offline_metrics``.

    Ranking the full corpus holds the rows of all items in memory twice, in float32; users are read one at a time.

    Args:
        folder: the release in the making, its tables and its retrieval index written.
        manifest: gives the layouts.
        run: the trained model.
        dataset: what the tables were computed from.
        max_users: test users to evaluate.
    """
    exact, stored = ModelScorer.encode(run.ranktower, dataset), _stored_scorer(run.ranktower, folder, manifest, dataset)
    options = EvaluationOptions(max_users=max_users)
    metrics: dict[str, Any] = {}
    for pool in POOLS:
        chosen = replace(options, pool=pool)
        before = evaluate(exact, dataset, chosen, progress=True)
        after = evaluate(stored, dataset, chosen, progress=True)
        metrics[pool] = {
            "float32_rows": before.summary(),
            f"{manifest.row_dtype}_stored_rows": after.summary(),
            "ndcg_change": abs(before.ndcg - after.ndcg),
        }
    raw = read_fallback_user(folder, manifest)
    if raw is None:
        raise ReleaseError(f"{folder}: no fallback user")
    unknown = stored_rows(run.ranktower, "user", manifest.layout("user"), raw)
    fallback = ModelScorer(run.ranktower, lambda _: unknown, exact.items)
    metrics["fallback_user"] = evaluate(fallback, dataset, options, progress=True).summary()
    metrics["retrieval"] = _retrieval_overlap(folder, manifest, stored, dataset)
    return metrics


def refuse_costly_rows(metrics: dict[str, Any], manifest: Manifest) -> None:
    """No release whose stored rows rank otherwise than the model: ReleaseError names pool, figure and way out."""
    for pool in POOLS:
        change = metrics[pool]["ndcg_change"]
        if not change <= MAX_NDCG_CHANGE:
            raise ReleaseError(
                f"release {manifest.release}: {manifest.row_dtype} rows move NDCG in pool {pool!r} by {change:.2g}, "
                f"more than {MAX_NDCG_CHANGE}; run 'ranktower precompute --dtype float32'"
            )


def fallback_user(users: LocalTable) -> dict[str, NDArray[np.float32]]:
    """The user nothing is known of: the mean of all users' multi-embeddings ``[1, Hu, D]``.

    The tower at out-of-vocabulary features would not do: training never sees those, so their embeddings are noise.
    """
    total = np.zeros(users.layout.shape("embedding"))
    for _, raw in users.batches(_BATCH_ROWS):
        total += users.layout.decode(raw)["embedding"].sum(axis=0, dtype=np.float64)
    return {"embedding": (total / max(len(users), 1)).astype(np.float32)[None]}


def write_golden(folder: Path, manifest: Manifest, model: RankTower, dataset: PreparedDataset) -> float:
    """Write ``golden.npz``: pairs with torch's scores on the rows of the tables (``scores``), on those that Redis gets
    (``embedding_scores``), and in float32 from features to score (``scores_fp32``).

    Returns:
        The greatest difference of the first and the last, on the cosine-sum scale.
    """
    generator = np.random.default_rng(0)
    users = generator.permutation(len(dataset.users))[:GOLDEN_USERS]
    items = generator.permutation(len(dataset.items))[:GOLDEN_ITEMS]
    user_ids, item_ids = dataset.users.ids[users], dataset.items.ids[items]
    exact = _score_all(
        model,
        encode_rows(model, dataset.users.features.take(users), model.encode_users),
        encode_rows(model, dataset.items.features.take(items), model.encode_items),
    )
    user_rows, item_rows = _fetch(folder, manifest, "user", user_ids), _fetch(folder, manifest, "item", item_ids)
    stored_users = stored_rows(model, "user", manifest.layout("user"), user_rows)
    stored = _score_all(model, stored_users, stored_rows(model, "item", manifest.layout("item"), item_rows))
    in_redis = manifest.redis_layout("item")
    from_redis = stored_rows(model, "item", in_redis, item_rows[:, : in_redis.row_size])
    with (folder / GOLDEN).open("wb") as file:
        np.savez(
            file,
            user_ids=np.repeat(user_ids.astype(str), len(items)),
            item_ids=np.tile(item_ids.astype(str), len(users)),
            scores=stored.ravel(),
            embedding_scores=_score_all(model, stored_users, from_redis).ravel(),
            scores_fp32=exact.ravel(),
        )
    return float(np.abs(stored - exact).max()) * manifest.tau


def _score_all(model: RankTower, users: Rows, items: Rows) -> NDArray[np.float32]:
    """Scores ``[num_users, num_items]``."""
    lists = tuple(array.expand(len(users[0]), *array.shape) for array in items)
    with torch.inference_mode():
        return model.score_pairs(users, lists).numpy()


def _retrieval_overlap(
    folder: Path, manifest: Manifest, scorer: ModelScorer, dataset: PreparedDataset
) -> dict[str, float]:
    """How much of what full scoring puts first the retrieval index would have found, over some users."""
    retrieved, k = min(RETRIEVED, manifest.num_items), min(100, manifest.num_items)
    index = load_index(folder / RETRIEVAL_INDEX, num_items=manifest.num_items, width=manifest.shape.width)
    # The index counts rows of the table, the scorer rows of the data set.
    table = LocalTable(folder / TABLES["item"], manifest.layout("item"))
    place = dict(zip(dataset.items.ids.tolist(), range(manifest.num_items), strict=True))
    to_dataset = np.array([place[one] for one in table.ids_at(slice(0, len(table)))])
    users = np.random.default_rng(0).permutation(len(dataset.users))[:RETRIEVAL_USERS]
    found = []
    for user in users.tolist():
        best = np.argsort(-scorer(user, np.arange(manifest.num_items)), kind="stable")[:k]
        (vector,) = pooled_vectors(scorer.user(user)[0].numpy())
        found.append(np.isin(best, to_dataset[search(index, vector, retrieved)]).mean())
    return {"num_users": len(users), "k": k, "num_retrieved": retrieved, "overlap": float(np.mean(found))}


def _stored_scorer(model: RankTower, folder: Path, manifest: Manifest, dataset: PreparedDataset) -> ModelScorer:
    """The scorer over the rows as they are stored in a release."""
    layout = manifest.layout("user")
    users = LocalTable(folder / TABLES["user"], layout)

    def read_user(row: int) -> Rows:
        return stored_rows(model, "user", layout, users.fetch([dataset.users.ids[row]]).raw)

    items = _fetch(folder, manifest, "item", dataset.items.ids)
    return ModelScorer(model, read_user, stored_rows(model, "item", manifest.layout("item"), items))


def _fetch(folder: Path, manifest: Manifest, side: Side, ids: NDArray[np.object_]) -> NDArray[np.uint8]:
    return LocalTable(folder / TABLES[side], manifest.layout(side)).fetch(ids.tolist()).raw


def stored_rows(model: RankTower, side: Side, layout: RowLayout, raw: NDArray[np.uint8]) -> Rows:
    """Rows of bytes ``raw [n, row_size]`` as the model takes them, projected by torch where they are of embeddings."""
    arrays = tuple(torch.from_numpy(array) for array in layout.decode(raw).values())
    if layout.kind == "projected":
        return arrays
    network = model.cross_attention
    with torch.inference_mode():
        return tuple((network.project_users if side == "user" else network.project_items)(*arrays))
