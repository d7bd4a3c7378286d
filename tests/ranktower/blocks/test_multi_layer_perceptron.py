from __future__ import annotations

import torch
from torch import nn

from ranktower.blocks import MultiLayerPerceptron


def test_relu_stands_between_the_layers_and_the_last_is_linear() -> None:
    torch.manual_seed(0)
    network = MultiLayerPerceptron(5, (7, 6), 3).double()
    first, second, last = (layer for layer in network.layers if isinstance(layer, nn.Linear))
    inputs = torch.randn(4, 2, 5, dtype=torch.float64)
    values = inputs
    for layer in (first, second):
        values = (values @ layer.weight.T + layer.bias).clamp_min(0)
    torch.testing.assert_close(network(inputs), values @ last.weight.T + last.bias)


def test_without_hidden_layers_it_is_one_linear_map() -> None:
    assert [type(layer) for layer in MultiLayerPerceptron(5, (), 3, dropout=0.5).layers] == [nn.Linear]


def test_dropout_leaves_out_its_share_of_the_hidden_units_in_training() -> None:
    """With weights of 1 and no bias the output counts the units that stay, scaled by 1 / (1 - dropout)."""
    network = MultiLayerPerceptron(1, (10_000,), 1, dropout=0.2)
    for parameter in network.parameters():
        nn.init.constant_(parameter, float(parameter.dim() == 2))
    torch.manual_seed(0)
    with torch.no_grad():
        kept = network(torch.ones(1)) * 0.8 / 10_000
        torch.testing.assert_close(network.eval()(torch.ones(1)), torch.tensor([10_000.0]))
    assert abs(kept.item() - 0.8) < 0.02
