from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ranktower.blocks.fe_block import FEBlock, SubSpaces


def test_every_layer_meets_the_items_sub_spaces() -> None:
    """Two user layers of three sub-spaces each against an item's two, pair by pair from the formula."""
    generator = torch.Generator().manual_seed(2)
    users = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    items = torch.randn(4, 7, 2, 5, generator=generator, dtype=torch.float64)
    scores = FEBlock(initial_tau=0.2).double()(users, items).tolist()
    for b in range(4):
        for j in range(7):
            total = 0.0
            for layer in (0, 1):
                for m in range(3):
                    u = users[b, 3 * layer + m].numpy()
                    total += max(float(np.dot(u, v.numpy())) for v in items[b, j])
            # tau is a float32 parameter before it is made double.
            assert scores[b][j] == pytest.approx(total / 0.2, rel=1e-6)


def test_all_negative_products_keep_their_maximum() -> None:
    users = torch.ones(1, 1, 2)
    items = torch.tensor([[[[-1.0, -1.0], [-3.0, 0.0]]]])
    assert FEBlock(initial_tau=1.0)(users, items).item() == pytest.approx(-2.0)


def test_sub_spaces_are_unit_vectors_layer_by_layer() -> None:
    torch.manual_seed(3)
    block = SubSpaces([8, 6], num_heads=3, width=4).double()
    layers = [torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)]
    vectors = block(layers)
    assert vectors.shape == (5, 6, 4)
    for index, (projection, layer) in enumerate(zip(block.projections, layers, strict=True)):
        plain = (layer @ projection.weight.T + projection.bias).reshape(5, 3, 4)
        for row in range(5):
            for m in range(3):
                length = math.sqrt(sum(x * x for x in plain[row, m].tolist()))
                expected = [x / length for x in plain[row, m].tolist()]
                assert vectors[row, 3 * index + m].tolist() == pytest.approx(expected, rel=1e-9)
