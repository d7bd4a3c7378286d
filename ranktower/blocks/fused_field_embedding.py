"""Field embeddings of both sides of a pair, all of one width, looked up in one table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranktower.blocks.field_embedding import FieldSizes, SideFeatures, masked_mean

# Small: products of two fields are summed over hundreds of pairs, and what a first epoch says about an id must outweigh
# what its vector began as.
_INITIAL_STD = 0.01


class FusedFieldEmbedding(nn.Module):
    """``F`` fields of a user and an item to vectors ``[n, F, width]``.

    The rankers cross fields with one another, so they need one width for all. The paper's formula gives 16 for every
    field of fewer than 131,072 values, so 16 is what they take by default. All fields lie below one another in one
    table: one lookup and one gradient instead of one a field.

    The user's single-valued fields come first, then the item's, the user's bags and the item's bags. A bag is the mean
    of its entries, zeros where it is empty.
    """

    offsets: Tensor

    def __init__(self, users: FieldSizes, items: FieldSizes, width: int) -> None:
        super().__init__()
        sizes = [size for side in (users, items) for size in side.single.values()]
        sizes += [size for side in (users, items) for size in side.bags.values()]
        ends = torch.tensor(sizes, dtype=torch.int64).cumsum(0)
        self.register_buffer("offsets", torch.cat([ends.new_zeros(1), ends[:-1]]), persistent=False)
        self.weight = nn.Parameter(torch.randn(sum(sizes), width) * _INITIAL_STD)
        self.num_fields, self.width = len(sizes), width

    def forward(self, users: SideFeatures, items: SideFeatures) -> Tensor:
        """Features of n users and of n items, pair by pair, to ``[n, F, width]``."""
        codes = torch.cat([users.codes, items.codes], dim=1)
        num_single = codes.shape[1]
        fields = F.embedding(codes + self.offsets[:num_single], self.weight)
        bags = zip(
            self.offsets[num_single:],
            (*users.bag_values, *items.bag_values),
            (*users.bag_lengths, *items.bag_lengths),
            strict=True,
        )
        pooled = [masked_mean(F.embedding(values + offset, self.weight), lengths) for offset, values, lengths in bags]
        return torch.cat([fields, *(vector.unsqueeze(1) for vector in pooled)], dim=1)
