"""Trains the two-tower retrieval model that draws candidate samples (Covington et al. 2016; METHOD §4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ranktower.blocks import SideFeatures
from ranktower.data.dataset import TRAIN, PreparedDataset
from ranktower.data.tables import STAGES
from ranktower.errors import ConfigError
from ranktower.models import TwoTower
from ranktower.training.config import RetrievalConfig, TrainConfig
from ranktower.training.tensors import as_int64, hide_items, histories, side_features, side_sizes, take, to_device


def train_retrieval(
    dataset: PreparedDataset, config: TrainConfig, *, device: torch.device, progress: bool = True
) -> TwoTower:
    """Softmax over each item that a user had and items drawn uniformly from the corpus, on the training split.

    Uniform negatives need no correction of the logits: they share one sampling probability. A step takes whole users,
    so each is encoded once and not once an item.

    Args:
        dataset: prepared data; only impressions of the training split are read.
        config: its ``retrieval`` gives the model's shape and the optimiser's settings; its seed is that of the initial
            weights, the order of the users and the negatives.
        device: where to train.
        progress: show a bar with rate and time left.

    Raises:
        ConfigError: the training split has no item to learn from.
    """
    settings, own = config.retrieval, _items_by_user(dataset, config.retrieval)
    torch.manual_seed(config.seed)
    model = TwoTower(settings.model, *side_sizes(dataset.encoder, config.embedding_widths)).to(device)
    users = to_device(side_features(dataset.users.features), device)
    items = to_device(side_features(dataset.items.features), device)
    hidden_from = histories(dataset, settings.history_dropout, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    total = settings.epochs * -(-len(own.user_rows) // settings.batch_users)
    with tqdm(total=total, desc="train retrieval", unit="step", disable=None if progress else True) as bar:
        for _ in range(settings.epochs):
            order = torch.randperm(len(own.user_rows), generator=generator)
            for batch in torch.split(order, settings.batch_users):
                places, item_rows = own.pairs(batch, settings.max_items, generator)
                drawn = torch.randint(len(dataset.items), (settings.num_negatives,), generator=generator)
                user_batch = hide_items(take(users, own.user_rows[batch].to(device)), hidden_from)
                loss = retrieval_loss(model, user_batch, items, places.to(device), item_rows, drawn)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                bar.update()
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    return model.eval()


def retrieval_loss(
    model: TwoTower, users: SideFeatures, items: SideFeatures, places: Tensor, item_rows: Tensor, drawn: Tensor
) -> Tensor:
    """Mean cross entropy of the pairs: user ``places[i]`` of ``users`` and item ``item_rows[i]``, among ``drawn``.

    An item that was drawn twice counts once. So a pair's softmax is the user's own over all that was drawn, if its item
    is among that, and else the same with one more item: a user's exponentials are summed once, and not once a pair.

    Args:
        model: scores a pair by a cosine over its temperature.
        users: features of B users.
        items: features of all items.
        places: int64 ``[n]``, and
        item_rows: int64 ``[n]``, the pairs.
        drawn: int64 ``[m]``, rows of the shared negatives.
    """
    device = users.codes.device
    distinct, inverse = torch.unique(torch.cat([item_rows, drawn]), return_inverse=True)
    # One tower run for the users' items and the drawn ones together.
    (item_vectors,) = model.encode_items(take(items, distinct.to(device)))
    (user_vectors,) = model.encode_users(users)
    scores = user_vectors @ item_vectors.T / model.log_tau.exp()
    is_drawn = torch.zeros(len(distinct), dtype=torch.bool)
    is_drawn[inverse[len(item_rows) :]] = True
    own, is_drawn = inverse[: len(item_rows)].to(device), is_drawn.to(device)
    asked = scores[places, own]
    of_drawn = torch.logsumexp(scores[:, is_drawn], dim=1)[places]
    return (torch.where(is_drawn[own], of_drawn, torch.logaddexp(of_drawn, asked)) - asked).mean()


@dataclass(frozen=True)
class ItemsByUser:
    """``user_rows [n]`` and, one behind the other, the item rows of each: user i's are ``starts[i]:starts[i + 1]``."""

    user_rows: Tensor
    item_rows: Tensor
    starts: Tensor

    def pairs(self, batch: Tensor, at_most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of the users ``batch``: the place in ``batch`` and the item row of each of their pairs.

        Of a user with more than ``at_most`` items, so many in a row are taken, from a drawn one on.
        """
        owned = self.starts[batch + 1] - self.starts[batch]
        taken = owned.clamp_max(at_most)
        places = torch.repeat_interleave(torch.arange(len(batch)), taken)
        within = torch.arange(len(places)) - torch.repeat_interleave(taken.cumsum(0) - taken, taken)
        if bool((owned > at_most).any()):
            first = (torch.rand(len(batch), generator=generator) * owned).long()
            within = (first[places] + within) % owned[places]
        return places, self.item_rows[self.starts[batch][places] + within]


def _items_by_user(dataset: PreparedDataset, settings: RetrievalConfig) -> ItemsByUser:
    rows = dataset.interactions
    asked = (rows.split == TRAIN) & (rows.stage == STAGES.index("impression"))
    if settings.of == "positives":
        asked &= rows.feedback > 0
    if not asked.any():
        columns = ", ".join(dataset.spec.feedback)
        what = f"has positive feedback ({columns})" if settings.of == "positives" else "is there"
        raise ConfigError(f"no impression of the training split {what}: nothing to learn")
    # Interactions are sorted by user.
    user_rows, starts = np.unique(rows.user_row[asked], return_index=True)
    return ItemsByUser(
        as_int64(user_rows), as_int64(rows.item_row[asked]), as_int64(np.append(starts, np.count_nonzero(asked)))
    )
