from __future__ import annotations

import torch

from ranktower.blocks.cross_network import CrossNetwork


def test_every_layer_multiplies_by_the_first_input_and_adds_the_last() -> None:
    torch.manual_seed(0)
    network = CrossNetwork(5, num_layers=3, rank=2).double()
    x0 = torch.randn(4, 5, dtype=torch.float64)
    for row, found in zip(x0, network(x0), strict=True):
        x = row
        for down, up in zip(network.down, network.up, strict=True):
            full = up.weight @ down.weight
            assert torch.linalg.matrix_rank(full) == 2
            x = torch.stack([row[i] * (full[i] @ x + up.bias[i]) + x[i] for i in range(5)])
        torch.testing.assert_close(found, x)


def test_the_degree_grows_by_one_a_layer() -> None:
    torch.manual_seed(0)
    network = CrossNetwork(3, num_layers=2, rank=3).double()
    for up in network.up:
        torch.nn.init.zeros_(up.bias)
    x0 = torch.rand(1, 3, dtype=torch.float64) + 1
    # Along a ray t * x0 each output is a polynomial in t without a constant; one of degree 3 has no fourth difference.
    values = torch.cat([network(t * x0) for t in range(6)])
    differences = values
    for _ in range(3):
        differences = differences.diff(dim=0)
    assert differences.abs().min() > 1e-6
    torch.testing.assert_close(differences.diff(dim=0), torch.zeros(2, 3, dtype=torch.float64), atol=1e-8, rtol=0)
