from __future__ import annotations

import pytest
import torch

from ranktower.losses.lists import clean_lists, longest, mean_over_lists, pack


def test_pack_brings_the_chosen_items_to_the_front_in_their_order() -> None:
    chosen = torch.tensor([[False, True, False, True], [False, False, False, True], [False] * 4])
    order, real = pack(chosen)
    assert order.shape == (3, 2)
    assert order[0].tolist() == [1, 3]
    assert order[1, 0] == 3
    assert real.tolist() == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4)])
def test_pack_of_nothing_has_no_columns(shape: tuple[int, int]) -> None:
    order, real = pack(torch.zeros(shape, dtype=torch.bool))
    assert order.shape == real.shape == (shape[0], 0)


def test_longest_counts_the_fullest_row() -> None:
    assert longest(torch.tensor([[True, False, True], [True, False, False]])) == 2
    assert longest(torch.zeros(0, 3, dtype=torch.bool)) == 0


def test_clean_lists_overwrites_masked_places_and_keeps_the_rest() -> None:
    mask = torch.tensor([[True, False]])
    nan = float("nan")
    z, y = clean_lists(torch.tensor([[1.5, nan]]), torch.tensor([[2, 7]]), mask)
    assert z.tolist() == [[1.5, 0.0]]
    assert y.tolist() == [[2.0, 0.0]]
    assert y.dtype == torch.float32


def test_mean_over_lists_divides_by_the_lists_that_count() -> None:
    values = torch.tensor([2.0, float("nan"), 6.0], requires_grad=True)
    mean = mean_over_lists(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean == 4.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_mean_over_no_list_is_zero_with_a_gradient() -> None:
    values = torch.tensor([2.0, 3.0], requires_grad=True)
    mean = mean_over_lists(values, torch.tensor([False, False]))
    mean.backward()
    assert mean == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]
