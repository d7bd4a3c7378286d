"""What every loss does with padded lists: clean the inputs, pack chosen items, average over the lists that count."""

from __future__ import annotations

import torch
from torch import Tensor


def clean_lists(scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and labels [B, L] with 0 in the masked places, in the dtype to compute in, the labels without gradient.

    The masked places are overwritten before any arithmetic: a NaN that is only multiplied by 0 later is still NaN, in
    the value or in the gradient.

    Raises:
        ValueError: as ``check_lists``.
    """
    check_lists(scores, labels, mask)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.where(mask, scores.to(dtype), 0.0), torch.where(mask, labels.detach().to(dtype), 0.0)


def check_lists(scores: Tensor, labels: Tensor, mask: Tensor) -> None:
    """Refuse lists that would broadcast or be masked by numbers.

    Raises:
        ValueError: the three differ in shape, are not two-dimensional, or the mask is not boolean.
    """
    if scores.dim() != 2 or labels.shape != scores.shape or mask.shape != scores.shape:
        shapes = f"scores {list(scores.shape)}, labels {list(labels.shape)}, mask {list(mask.shape)}"
        raise ValueError(f"scores, labels and mask must have one shape [B, L]: {shapes}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True = a real item: its dtype is {mask.dtype}")


def pack(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [B, n] of each list's chosen items [B, L], n the most of any list, and which of them are real.

    A [B, n, L] pairwise table over packed items is smaller than [B, L, L] and gives the same sums.
    """
    order = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, : longest(chosen)]
    return order, chosen.gather(-1, order)


def longest(chosen: Tensor) -> int:
    """The largest number of True entries in a row of [B, L]; 0 for an empty tensor."""
    return int(chosen.sum(dim=-1).max()) if chosen.numel() else 0


def mean_over_lists(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of ``values`` [B] over the lists whose ``counts`` [B] is True; 0, still in the graph, if there is none."""
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
