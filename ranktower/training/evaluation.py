"""Recall@K and NDCG@K of any scorer, in both pools of METHOD §7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ranktower.blocks import SideFeatures
from ranktower.data.dataset import TEST, TRAIN, VALIDATION, PreparedDataset
from ranktower.data.encoder import EncodedFeatures
from ranktower.data.tables import STAGES
from ranktower.metrics import ndcg_at_k, recall_at_k
from ranktower.models import PreRanker
from ranktower.models.pre_ranker import Rows
from ranktower.training.config import Pool
from ranktower.training.tensors import side_features, to_device

Ints = NDArray[np.integer[Any]]
# Scores of one user's items: (user row, item rows [n]) to [n].
Scorer = Callable[[int, Ints], NDArray[np.float32]]

SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
# Items scored at once: a block's intermediate tensors stay in the second-level cache.
_BLOCK = 2048


@dataclass(frozen=True)
class Evaluation:
    """Means over the evaluated users, and the users' own values for paired tests.

    Attributes:
        num_users: users with at least one positive in the split, of those drawn.
        users: their rows; ``recalls`` and ``ndcgs`` are in the same order.
    """

    split: str
    pool: Pool
    k: int
    recall: float
    ndcg: float
    num_users: int
    users: Ints
    recalls: NDArray[np.float64]
    ndcgs: NDArray[np.float64]

    def summary(self) -> dict[str, Any]:
        """What a metrics file keeps."""
        return {
            "split": self.split,
            "pool": self.pool,
            "k": self.k,
            "recall": self.recall,
            "ndcg": self.ndcg,
            "num_users": self.num_users,
        }


@dataclass(frozen=True)
class EvaluationOptions:
    """Over whom and what to evaluate: ``max_users`` users drawn by ``seed`` from those with a positive, or all."""

    split: str = "test"
    pool: Pool = "full_corpus"
    k: int = 100
    max_users: int | None = None
    seed: int = 0


def evaluate(
    score: Scorer, dataset: PreparedDataset, options: EvaluationOptions, *, progress: bool = False
) -> Evaluation:
    """Rank each user's pool and average over the users that have a positive in the split.

    The gain of an item is its feedback label. ``full_corpus`` ranks all items minus the user's interactions of the
    earlier splits; ``impressions`` ranks the user's own impressions of the split.
    """
    interactions = dataset.interactions
    impressions = interactions.stage == STAGES.index("impression")
    split = SPLITS[options.split]
    here = np.flatnonzero(impressions & (interactions.split == split))
    earlier = np.flatnonzero(impressions & (interactions.split < split))
    users = _drawn_users(interactions.user_row[here[interactions.feedback[here] > 0]], options)
    here_starts, here_ends = _spans(interactions.user_row[here], users)
    seen_starts, seen_ends = _spans(interactions.user_row[earlier], users)
    recalls, ndcgs = np.zeros(len(users)), np.zeros(len(users))
    corpus = np.arange(len(dataset.items.ids))
    name = f"evaluate {options.split} {options.pool}"
    for index, user in enumerate(
        tqdm(users.tolist(), desc=name, unit="user", disable=None if progress else True, leave=False)
    ):
        own = here[here_starts[index] : here_ends[index]]
        items: Ints = interactions.item_row[own]
        labels = interactions.feedback[own]
        if options.pool == "full_corpus":
            graded = np.zeros(len(corpus), dtype=np.float32)
            graded[items] = labels
            kept = np.ones(len(corpus), dtype=bool)
            kept[interactions.item_row[earlier[seen_starts[index] : seen_ends[index]]]] = False
            items, labels = corpus[kept], graded[kept]
        scores = score(user, items)[None]
        mask = np.ones_like(scores, dtype=bool)
        recalls[index] = recall_at_k(scores, labels[None], mask=mask, k=options.k)[0]
        ndcgs[index] = ndcg_at_k(scores, labels[None], mask=mask, k=options.k)[0]
    return Evaluation(
        split=options.split,
        pool=options.pool,
        k=options.k,
        recall=float(recalls.mean()) if len(users) else 0.0,
        ndcg=float(ndcgs.mean()) if len(users) else 0.0,
        num_users=len(users),
        users=users,
        recalls=recalls,
        ndcgs=ndcgs,
    )


class ModelScorer:
    """Scores of a model over all items' rows, and the row of one user at a time: users may be many."""

    def __init__(self, model: PreRanker, user: Callable[[int], Rows], items: Rows) -> None:
        """``user`` gives one user's rows ``[1, ...]``; ``items`` are arrays ``[num_items, ...]``."""
        self.model, self.user, self.items = model, user, items

    @classmethod
    def encode(cls, model: PreRanker, dataset: PreparedDataset) -> ModelScorer:
        """Over the rows that the model's own towers give."""
        users = dataset.users.features

        def encode_user(row: int) -> Rows:
            return encode_rows(model, users.take(slice(row, row + 1)), model.encode_users)

        return cls(model, encode_user, encode_rows(model, dataset.items.features, model.encode_items))

    def __call__(self, user_row: int, item_rows: Ints) -> NDArray[np.float32]:
        """Logits ``[n]`` of one user's items ``[n]``."""
        with torch.inference_mode():
            user = self.user(user_row)
            rows = torch.from_numpy(item_rows.astype(np.int64)).to(user[0].device)
            scores = [
                self.model.score_pairs(user, tuple(array[block].unsqueeze(0) for array in self.items))[0]
                for block in torch.split(rows, _BLOCK)
            ]
            return torch.cat(scores).cpu().numpy()


def encode_rows(
    model: PreRanker,
    features: EncodedFeatures,
    tower: Callable[[SideFeatures], Rows],
    *,
    batch_rows: int = 4096,
) -> Rows:
    """Rows of all of ``features`` through one of the model's towers, in batches, on the model's device."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        batches = [
            tower(to_device(side_features(features.take(slice(start, start + batch_rows))), device))
            for start in range(0, len(features), batch_rows)
        ]
        return tuple(torch.cat(arrays) for arrays in zip(*batches, strict=True))


def popularity_scorer(dataset: PreparedDataset) -> Scorer:
    """The baseline that knows no user: positive feedback of the training split, counted an item."""
    interactions = dataset.interactions
    positive = (interactions.split == TRAIN) & (interactions.feedback > 0)
    counts = np.bincount(interactions.item_row[positive], minlength=len(dataset.items.ids)).astype(np.float32)
    return lambda _, item_rows: counts[item_rows]


def _drawn_users(user_rows: Ints, options: EvaluationOptions) -> Ints:
    users = np.unique(user_rows)
    if options.max_users is None or len(users) <= options.max_users:
        return users
    generator = np.random.default_rng(options.seed)
    return np.sort(generator.choice(users, options.max_users, replace=False))


def _spans(sorted_rows: Ints, users: Ints) -> tuple[Ints, Ints]:
    """Where each user's entries begin and end; interactions are sorted by user."""
    return np.searchsorted(sorted_rows, users, side="left"), np.searchsorted(sorted_rows, users, side="right")
