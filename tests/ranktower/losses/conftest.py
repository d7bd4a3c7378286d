"""Random lists, and the reduction over lists written a second time, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Lists = tuple[Tensor, Tensor, Tensor]
Numbers = Sequence[float]


@pytest.fixture
def make_lists() -> Callable[..., Lists]:
    """``make_lists(seed)`` gives float64 scores, graded labels 0..3 and a mask with holes, all [6, 9].

    The first list is whole, the fourth is all masked, the fifth has one item, the last has no positive label.
    """

    def make(seed: int, *, soft_labels: bool = False) -> Lists:
        generator = torch.Generator().manual_seed(seed)
        scores = 2 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 4, (6, 9), generator=generator).double()
        if soft_labels:
            labels = torch.rand(6, 9, generator=generator, dtype=torch.float64)
        mask = torch.rand(6, 9, generator=generator) < 0.7
        mask[0], mask[3], mask[4], mask[5, :3] = True, False, False, True
        mask[4, 2] = True
        labels[5] = 0
        return scores, labels, mask

    return make


@pytest.fixture
def expected_mean() -> Callable[..., float]:
    """``expected_mean(scores, labels, mask, value, counts)``: the mean of ``value(z, y)`` over lists with ``counts``.

    ``value`` and ``counts`` see one list at a time, its real items alone, as lists of Python floats.
    """

    def reduce(
        scores: Tensor,
        labels: Tensor,
        mask: Tensor,
        value: Callable[[Numbers, Numbers], float],
        counts: Callable[[Numbers, Numbers], bool],
    ) -> float:
        values = []
        for row in range(len(scores)):
            real = [column for column in range(scores.shape[1]) if mask[row, column].item()]
            z = [scores[row, column].item() for column in real]
            y = [labels[row, column].item() for column in real]
            if counts(z, y):
                values.append(value(z, y))
        return sum(values) / len(values) if values else 0.0

    return reduce
