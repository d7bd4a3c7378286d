"""What training, evaluation and export ask of a model that decouples user and item."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ranktower.blocks import SideFeatures

# The arrays a side stores for one user or item, each [n, ...]; a model reads only those that it wrote.
Rows = tuple[Tensor, ...]


class PreRanker(nn.Module, ABC):
    """Two towers that run alone, and a function of their rows."""

    @abstractmethod
    def encode_users(self, features: SideFeatures) -> Rows:
        """Features of n users to their rows, arrays ``[n, ...]``."""

    @abstractmethod
    def encode_items(self, features: SideFeatures) -> Rows:
        """Features of n items to their rows, arrays ``[n, ...]``."""

    @abstractmethod
    def score_pairs(self, users: Rows, items: Rows) -> Tensor:
        """Rows of B users ``[B, ...]`` and of L items a user ``[B, L, ...]`` to logits ``[B, L]``."""
