from __future__ import annotations

import torch

from ranktower.blocks.residual_unit import ResidualUnit


def test_it_is_two_layers_and_a_shortcut_under_one_relu() -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(4, 3).double()
    inputs = torch.randn(7, 4, dtype=torch.float64)
    w0, b0, w1, b1 = (parameter.detach() for parameter in unit.parameters())
    for row, found in zip(inputs, unit(inputs), strict=True):
        inner = [max(0.0, float(w0[h] @ row + b0[h])) for h in range(3)]
        expected = [max(0.0, float(w1[j] @ torch.tensor(inner).double() + b1[j] + row[j])) for j in range(4)]
        torch.testing.assert_close(found, torch.tensor(expected).double())


def test_without_weights_it_passes_what_is_positive() -> None:
    unit = ResidualUnit(2, 3)
    torch.nn.init.zeros_(unit.outer.weight)
    torch.nn.init.zeros_(unit.outer.bias)
    torch.testing.assert_close(unit(torch.tensor([[2.0, -2.0]])), torch.tensor([[2.0, 0.0]]))
