"""Trains the two-tower retrieval model that draws candidate samples (Covington et al. 2016; METHOD §4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ranktower.data.dataset import TRAIN, PreparedDataset
from ranktower.errors import ConfigError
from ranktower.models import TwoTower
from ranktower.training.config import RetrievalConfig
from ranktower.training.tensors import field_sizes, hide_items, histories, side_features, take, to_device


def train_retrieval(
    dataset: PreparedDataset, config: RetrievalConfig, *, seed: int, device: torch.device, progress: bool = True
) -> TwoTower:
    """Softmax over each positive and items drawn uniformly from the corpus, on the training split's positives.

    Uniform negatives need no correction of the logits: they share one sampling probability. A drawn item that is the
    positive itself is taken out of its own softmax.

    Args:
        dataset: prepared data; only interactions of the training split with positive feedback are read.
        config: the model's shape and the optimiser's settings.
        seed: of the initial weights, the order of the pairs and the negatives.
        device: where to train.
        progress: show a bar with rate and time left.

    Raises:
        ConfigError: the training split has no positive feedback.
    """
    interactions = dataset.interactions
    positive = np.flatnonzero((interactions.split == TRAIN) & (interactions.feedback > 0))
    if not len(positive):
        columns = ", ".join(dataset.spec.feedback)
        raise ConfigError(f"no impression of the training split has positive feedback ({columns}): nothing to learn")
    torch.manual_seed(seed)
    model = TwoTower(config.model, field_sizes(dataset.encoder.user), field_sizes(dataset.encoder.item)).to(device)
    users = to_device(side_features(dataset.users.features), device)
    items = to_device(side_features(dataset.items.features), device)
    hidden_from = histories(dataset, config.history_dropout, device)
    user_rows = torch.from_numpy(interactions.user_row[positive].astype(np.int64))
    item_rows = torch.from_numpy(interactions.item_row[positive].astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    batches_per_epoch = -(-len(positive) // config.batch_pairs)
    with tqdm(
        total=config.epochs * batches_per_epoch, desc="train retrieval", unit="step", disable=None if progress else True
    ) as bar:
        for _ in range(config.epochs):
            order = torch.randperm(len(positive), generator=generator)
            for pairs in torch.split(order, config.batch_pairs):
                drawn = torch.randint(len(dataset.items), (config.num_negatives,), generator=generator)
                user_batch, item_batch = take(users, user_rows[pairs].to(device)), item_rows[pairs]
                user_batch = hide_items(user_batch, hidden_from)
                # One tower run for positives and negatives together.
                vectors = model.encode_items(take(items, torch.cat([item_batch, drawn]).to(device)))[0]
                (user_vectors,) = model.encode_users(user_batch)
                scale = model.log_tau.exp()
                negatives = user_vectors @ vectors[len(pairs) :].T / scale
                same = (item_batch[:, None] == drawn[None, :]).to(device)
                positives = (user_vectors * vectors[: len(pairs)]).sum(dim=1, keepdim=True) / scale
                logits = torch.cat([positives, negatives.masked_fill(same, float("-inf"))], dim=1)
                loss = F.cross_entropy(logits, torch.zeros(len(pairs), dtype=torch.int64, device=device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                bar.update()
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    return model.eval()
