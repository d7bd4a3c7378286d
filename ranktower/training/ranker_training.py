"""Trains one ranker on impressions: log loss, stopped on validation, and what it predicts."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.dataset import PreparedDataset, Side
from ranktower.data.encoder import SideEncoder
from ranktower.errors import ConfigError
from ranktower.models.ranker import Ranker
from ranktower.training.classification_metrics import log_loss
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.tensors import field_sizes, side_features, take, to_device

Floats = NDArray[np.float32]
# Pairs predicted at once.
_BLOCK = 8192


@dataclass(frozen=True)
class PairFeatures:
    """Features of all users and items as rankers read them, on their device.

    Histories are left out: they hold the training positives, so a ranker could read the label it is asked for off them.
    """

    users: SideFeatures
    items: SideFeatures
    user_sizes: FieldSizes
    item_sizes: FieldSizes

    @classmethod
    def of(cls, dataset: PreparedDataset, device: torch.device) -> Self:
        """Of a prepared data set."""
        (users, user_sizes), (items, item_sizes) = (
            _without_histories(side, encoder, device)
            for side, encoder in ((dataset.users, dataset.encoder.user), (dataset.items, dataset.encoder.item))
        )
        return cls(users, items, user_sizes, item_sizes)

    def logits(self, ranker: Ranker, user_rows: Tensor, item_rows: Tensor) -> Tensor:
        """Of the pairs ``user_rows [n]`` and ``item_rows [n]``, ``[n]``."""
        logits: Tensor = ranker(take(self.users, user_rows), take(self.items, item_rows))
        return logits


def _without_histories(side: Side, encoder: SideEncoder, device: torch.device) -> tuple[SideFeatures, FieldSizes]:
    features, sizes = side_features(side.features), field_sizes(encoder)
    bags = [field for field in encoder.fields if field.is_bag]
    kept = [place for place, field in enumerate(bags) if field.kind != "history"]
    without = SideFeatures(
        features.codes,
        tuple(features.bag_values[place] for place in kept),
        tuple(features.bag_lengths[place] for place in kept),
    )
    names = {bags[place].name for place in kept}
    bag_sizes = {name: size for name, size in sizes.bags.items() if name in names}
    return to_device(without, device), FieldSizes(sizes.single, bag_sizes)


@dataclass(frozen=True)
class Impressions:
    """Impressions with what came of them: rows of users and items int64 ``[n]`` and labels float32 ``[n]``, 0 or 1."""

    user_rows: Tensor
    item_rows: Tensor
    labels: Tensor

    @classmethod
    def of(cls, dataset: PreparedDataset, places: NDArray[np.int64], device: torch.device) -> Self:
        """The interactions at ``places [n]``; positive is what has any feedback."""
        rows = dataset.interactions.take(places)
        return cls(
            torch.from_numpy(rows.user_row.astype(np.int64)).to(device),
            torch.from_numpy(rows.item_row.astype(np.int64)).to(device),
            torch.from_numpy((rows.feedback > 0).astype(np.float32)).to(device),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Tensor) -> Self:
        """Those at ``places [n]``, in their order."""
        return replace(
            self, user_rows=self.user_rows[places], item_rows=self.item_rows[places], labels=self.labels[places]
        )


def train_ranker(
    ranker: Ranker,
    features: PairFeatures,
    training: Impressions,
    validation: Impressions,
    config: TeacherConfig,
    bar: tqdm[Any],
) -> list[dict[str, float]]:
    """Train ``ranker`` and leave it as it was at its best validation, or at the end where there is no validation split.

    Draws from torch's global generator. ``bar`` counts impressions.

    Returns:
        One row a validation: ``epochs`` trained by then and ``log_loss``.

    Raises:
        ConfigError: as ``predict``.
    """
    # Fused: a step touches every row of the embedding table, and passes over it are what it costs.
    optimizer = torch.optim.Adam(ranker.parameters(), lr=config.learning_rate, fused=True)
    num_batches = -(-len(training) // config.batch_pairs)
    parts = config.validations_per_epoch
    marks = {-(-num_batches * (part + 1) // parts) for part in range(parts)} if len(validation) else set()
    history: list[dict[str, float]] = []
    # As long as nothing is validated, the best state is the ranker's own, whatever it becomes.
    best, best_loss, stale = ranker.state_dict(), math.inf, 0
    for epoch in range(config.max_epochs):
        order = torch.randperm(len(training)).to(training.labels.device)
        for number, batch in enumerate(torch.split(order, config.batch_pairs), start=1):
            _step(ranker, features, training.take(batch), optimizer, config.positive_weight)
            bar.update(len(batch))
            if number not in marks:
                continue
            loss = _validate(ranker, features, validation, config.positive_weight)
            history.append({"epochs": epoch + number / num_batches, "log_loss": loss})
            stale += 1
            if loss < best_loss:
                best, best_loss, stale = copy.deepcopy(ranker.state_dict()), loss, 0
            if stale == config.patience:
                ranker.load_state_dict(best)
                return history
    ranker.load_state_dict(best)
    return history


def predict(
    ranker: Ranker, features: PairFeatures, user_rows: Tensor, item_rows: Tensor, *, positive_weight: float
) -> Floats:
    """Probabilities float32 ``[n]`` of positive feedback for the pairs of ``user_rows [n]`` and ``item_rows [n]``.

    ``positive_weight`` is what the ranker was trained with; its odds are divided by it.

    Raises:
        ConfigError: the ranker gives something that is no number: its training went astray.
    """
    ranker.eval()
    with torch.inference_mode():
        blocks = zip(torch.split(user_rows, _BLOCK), torch.split(item_rows, _BLOCK), strict=True)
        logits = torch.cat([features.logits(ranker, users, items) for users, items in blocks])
        probabilities: Floats = torch.sigmoid(logits - math.log(positive_weight)).cpu().numpy()
    ranker.train()
    if not np.isfinite(probabilities).all():
        raise ConfigError(f"{type(ranker).__name__} gives probabilities that are no numbers; lower learning_rate")
    return probabilities


def _validate(ranker: Ranker, features: PairFeatures, validation: Impressions, positive_weight: float) -> float:
    found = predict(ranker, features, validation.user_rows, validation.item_rows, positive_weight=positive_weight)
    return log_loss(found, validation.labels.cpu().numpy() > 0)


def _step(
    ranker: Ranker,
    features: PairFeatures,
    batch: Impressions,
    optimizer: torch.optim.Optimizer,
    positive_weight: float,
) -> None:
    logits = features.logits(ranker, batch.user_rows, batch.item_rows)
    loss = F.binary_cross_entropy_with_logits(logits, batch.labels, pos_weight=logits.new_tensor(positive_weight))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
