from __future__ import annotations

import itertools

import torch

from ranktower.blocks.factorization_machine import pairwise_products


def test_it_is_the_sum_over_all_pairs_of_fields() -> None:
    torch.manual_seed(0)
    fields = torch.randn(5, 6, 3, dtype=torch.float64)
    expected = torch.stack([sum(row[i] @ row[j] for i, j in itertools.combinations(range(6), 2)) for row in fields])
    torch.testing.assert_close(pairwise_products(fields), expected)


def test_one_field_has_no_pair() -> None:
    torch.testing.assert_close(pairwise_products(torch.randn(4, 1, 3)), torch.zeros(4))
