"""What training, evaluation and export ask of a model: two sides that are encoded alone, and a function of a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ranktower.blocks import FieldEmbedding, SideFeatures

# The arrays a side stores for one user or item, each [n, ...]; a model reads only those that it wrote.
Rows = tuple[Tensor, ...]


@dataclass(frozen=True)
class EncodedLists:
    """A batch of training lists behind the towers; a list's items repeat within a batch, so they are encoded once.

    Attributes:
        users: rows of B users, ``[B, ...]``.
        items: rows of the batch's n distinct items, ``[n, ...]``.
        user_features: what ``users`` was encoded from.
        item_features: what ``items`` was encoded from.
        places: int64 ``[B, L]``, each list's items as places in ``items``; any place where ``mask`` is False.
        labels: hard labels ``[B, L]``; 0 where ``mask`` is False.
        stage: int64 ``[B, L]``, as in ``hybrid_parts``.
        mask: bool ``[B, L]``, True = a real item.
    """

    users: Rows
    items: Rows
    user_features: SideFeatures
    item_features: SideFeatures
    places: Tensor
    labels: Tensor
    stage: Tensor
    mask: Tensor

    def item_lists(self) -> Rows:
        """The items' rows as ``score_pairs`` takes them, ``[B, L, ...]``."""
        return tuple(look_up(array, self.places) for array in self.items)


class PreRanker(nn.Module, ABC):
    """Two sides that are encoded alone, and a function of their rows.

    A model that decouples does its work in the encoders; one that does not (COLD) encodes what its network over the
    pair begins with.
    """

    @abstractmethod
    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to their rows, arrays ``[n, ...]``."""

    @abstractmethod
    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to their rows, arrays ``[n, ...]``."""

    @abstractmethod
    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Rows of B users ``[B, ...]`` and of L items a user ``[B, L, ...]`` to logits ``[B, L]``."""

    def field_embeddings(self) -> tuple[FieldEmbedding, FieldEmbedding] | None:
        """The user's and the item's embedding layer, for a warm start; None for a model without such layers."""
        return None

    def auxiliary_loss(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        """What the model adds to the configured loss of a batch, a scalar; 0 for most.

        ``scores`` are the logits ``[B, L]`` of the lists. Masked places must have no influence.
        """
        return scores.new_zeros(())


def look_up(array: Tensor, places: Tensor) -> Tensor:
    """``[n, ...]`` at ``places [B, L]`` to ``[B, L, ...]``; unlike indexing, its backward is deterministic."""
    flat = F.embedding(places, array.flatten(1))
    return flat.reshape(*places.shape, *array.shape[1:])
