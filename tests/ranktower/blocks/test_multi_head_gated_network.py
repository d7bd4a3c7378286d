from __future__ import annotations

import torch

from ranktower.blocks import MultiHeadGatedNetwork


def network() -> MultiHeadGatedNetwork:
    torch.manual_seed(0)
    return MultiHeadGatedNetwork(10, num_heads=3, width=4, hidden=[8], gate_reduction=5)


def test_is_the_mlp_times_the_sigmoid_of_the_gate() -> None:
    block, x = network(), torch.randn(6, 10)
    first, last = block.gate.layers[0], block.gate.layers[2]
    gate = 1 / (1 + torch.exp(-(torch.relu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias)))
    expected = (block.network(x) * gate).reshape(6, 3, 4)
    torch.testing.assert_close(block(x), expected)
    assert first.out_features == 2  # 10 / 5


def test_the_gradient_stops_at_the_gates_input_only() -> None:
    block = network()
    x = torch.randn(6, 10, requires_grad=True)
    block(x).sum().backward()
    with torch.no_grad():
        gate = torch.sigmoid(block.gate(x)).clone()
    alone = x.detach().clone().requires_grad_(True)
    (block.network(alone) * gate).sum().backward()
    assert x.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(x.grad, alone.grad)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.gate.parameters())
