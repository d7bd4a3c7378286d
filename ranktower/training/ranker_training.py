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
from ranktower.errors import ConfigError, DivergedError
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

    Histories are left out. One of positives holds the training positives, so a ranker could read the label it is asked
    for off it. One of impressions holds the items of training pairs and of no others, so what a ranker learns from it
    tells nothing about pairs of validation and test.
    """

    users: SideFeatures
    items: SideFeatures
    user_sizes: FieldSizes
    item_sizes: FieldSizes

    @classmethod
    def of(cls, dataset: PreparedDataset, device: torch.device) -> Self:
        """Of a prepared data set.

        Raises:
            ConfigError: a side has nothing but histories.
        """
        (users, user_sizes), (items, item_sizes) = (
            _without_histories(name, side, encoder, device)
            for name, side, encoder in (
                ("user", dataset.users, dataset.encoder.user),
                ("item", dataset.items, dataset.encoder.item),
            )
        )
        return cls(users, items, user_sizes, item_sizes)

    def logits(self, ranker: Ranker, user_rows: Tensor, item_rows: Tensor) -> Tensor:
        """Of the pairs ``user_rows [n]`` and ``item_rows [n]``, ``[n]``."""
        logits: Tensor = ranker(take(self.users, user_rows), take(self.items, item_rows))
        return logits


def _without_histories(
    name: str, side: Side, encoder: SideEncoder, device: torch.device
) -> tuple[SideFeatures, FieldSizes]:
    if all(field.kind == "history" for field in encoder.fields):
        histories = ", ".join(field.name for field in encoder.fields) or "none"
        raise ConfigError(
            f"the data's features.yaml: {name}_features leave the teacher nothing to read, because it leaves out "
            f"histories ({histories}); add at least {{name: {name}_id, kind: categorical}}"
        )
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
        DivergedError: the training loss, or a logit on validation, is not finite any more.
    """
    # Fused: a step touches every row of the embedding table, and passes over it are what it costs.
    optimizer = torch.optim.Adam(ranker.parameters(), lr=config.learning_rate, fused=True)
    num_batches = -(-len(training) // config.batch_pairs)
    parts = config.validations_per_epoch
    # The last batch of an epoch is always one of them.
    marks = {-(-num_batches * (part + 1) // parts) for part in range(parts)}
    history: list[dict[str, float]] = []
    # As long as nothing is validated, the best state is the ranker's own, whatever it becomes.
    best, best_loss, stale = ranker.state_dict(), math.inf, 0
    for epoch in range(config.max_epochs):
        order = torch.randperm(len(training)).to(training.labels.device)
        for number, batch in enumerate(torch.split(order, config.batch_pairs), start=1):
            trained = _step(ranker, features, training.take(batch), optimizer, config.positive_weight)
            bar.update(len(batch))
            if number not in marks:
                continue
            if not trained.isfinite():
                raise DivergedError(f"{type(ranker).__name__}: the training loss is {trained:g}; lower learning_rate")
            if not len(validation):
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
        DivergedError: a logit is not finite: the ranker's training went astray.
    """
    ranker.eval()
    with torch.inference_mode():
        blocks = zip(torch.split(user_rows, _BLOCK), torch.split(item_rows, _BLOCK), strict=True)
        logits = torch.cat([features.logits(ranker, users, items) for users, items in blocks])
    ranker.train()
    # Looked at before the sigmoid, which makes a probability of an infinite logit.
    if not logits.isfinite().all():
        raise DivergedError(f"{type(ranker).__name__}: a logit is not finite; lower learning_rate")
    probabilities: Floats = torch.sigmoid(logits - math.log(positive_weight)).cpu().numpy()
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
) -> Tensor:
    """One step; returns the loss before it."""
    logits = features.logits(ranker, batch.user_rows, batch.item_rows)
    loss = F.binary_cross_entropy_with_logits(logits, batch.labels, pos_weight=logits.new_tensor(positive_weight))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
