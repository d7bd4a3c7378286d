from __future__ import annotations

import pytest
import torch

from ranktower.blocks.polynomial_interaction_network import PolynomialInteractionNetwork


@pytest.mark.parametrize("num_subspaces", [1, 2, 4])
def test_every_layer_is_the_recursion_over_pieces(num_subspaces: int) -> None:
    torch.manual_seed(0)
    network = PolynomialInteractionNetwork(3, num_layers=2, num_subspaces=num_subspaces).double()
    fields = torch.randn(2, 3, 4, dtype=torch.float64)
    found = network(fields)
    assert found.shape == (2, 2, 12)
    for n in range(2):
        # Row r of X_0: piece r % S of field r // S.
        start = torch.stack([piece for field in fields[n] for piece in field.chunk(num_subspaces)])
        layer = start
        for number, weight in enumerate(network.layers):
            mixed = torch.stack([sum(weight[r, k] * start[k] for k in range(len(start))) for r in range(len(start))])
            layer = layer * mixed + layer
            torch.testing.assert_close(found[n, number], layer.reshape(-1))


def test_only_with_subspaces_do_bits_of_different_places_meet() -> None:
    torch.manual_seed(0)
    fields = torch.randn(1, 2, 4, requires_grad=True)
    reached = {}
    for num_subspaces in (1, 2):
        network = PolynomialInteractionNetwork(2, num_layers=1, num_subspaces=num_subspaces)
        (gradient,) = torch.autograd.grad(network(fields)[0, 0, 0], fields)
        reached[num_subspaces] = gradient[0].ne(0).any(dim=0).tolist()
    assert reached == {1: [True, False, False, False], 2: [True, False, True, False]}
