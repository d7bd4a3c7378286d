"""Embedding layer of one side: every field to a dense vector, all of them concatenated (paper §3.2, equations 1, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn


class SideFeatures(NamedTuple):
    """Encoded features of ``n`` users or items, as the towers take them.

    Attributes:
        codes: int64 ``[n, F]``, one index a single-valued field; 0 is out-of-vocabulary.
        bag_values: one int64 ``[n, T_f]`` a multi-valued field.
        bag_lengths: one int64 ``[n]`` a multi-valued field; slots at or after the length are padding.
    """

    codes: Tensor
    bag_values: tuple[Tensor, ...] = ()
    bag_lengths: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class FieldSizes:
    """Number of indices of every field of one side, out-of-vocabulary included.

    Attributes:
        single: single-valued fields in the order of ``SideFeatures.codes``.
        bags: multi-valued fields in the order of ``SideFeatures.bag_values``.
        given_widths: embedding widths of fields that do not take ``embedding_width``.
    """

    single: Mapping[str, int]
    bags: Mapping[str, int]
    given_widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, ...]:
        """Embedding widths of all fields, single-valued ones first."""
        sizes = {**self.single, **self.bags}
        return tuple(self.given_widths.get(name, embedding_width(size)) for name, size in sizes.items())

    @property
    def output_width(self) -> int:
        """Width of the concatenated embeddings."""
        return sum(self.widths)


def embedding_width(cardinality: int) -> int:
    """``max(floor(log2(cardinality)), 16)`` (paper §5.1.4).

    Args:
        cardinality: number of indices of the field, at least 1.
    """
    return max(cardinality.bit_length() - 1, 16)


class FieldEmbedding(nn.Module):
    """Concatenated field embeddings ``X`` (paper equations 1 and 2); a multi-valued field is a mean-pooled bag.

    An empty bag gives zeros: an item without tags says nothing, which is not the same as an unknown tag.
    """

    def __init__(self, sizes: FieldSizes) -> None:
        super().__init__()
        num_single = len(sizes.single)
        self.single = nn.ModuleList(map(_table, sizes.single.values(), sizes.widths[:num_single]))
        self.bags = nn.ModuleList(map(_table, sizes.bags.values(), sizes.widths[num_single:]))
        self.output_width = sizes.output_width

    def forward(self, features: SideFeatures) -> Tensor:
        """``SideFeatures`` of ``n`` rows to ``[n, sum of the fields' widths]``."""
        parts = [table(features.codes[:, column]) for column, table in enumerate(self.single)]
        for table, values, lengths in zip(self.bags, features.bag_values, features.bag_lengths, strict=True):
            parts.append(masked_mean(table(values), lengths))
        return torch.cat(parts, dim=-1)


def _table(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    # torch's default of N(0, 1) drowns the network that follows; this keeps each field's vector at unit length.
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


def masked_mean(embedded: Tensor, lengths: Tensor) -> Tensor:
    """Mean of the first ``lengths`` of ``[n, T, W]`` along T, zeros where the length is 0."""
    positions = torch.arange(embedded.shape[1], device=embedded.device)
    valid = (positions < lengths.unsqueeze(1)).unsqueeze(-1)
    total = torch.where(valid, embedded, torch.zeros_like(embedded)).sum(dim=1)
    return total / lengths.clamp_min(1).unsqueeze(1).to(embedded.dtype)
