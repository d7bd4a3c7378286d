from __future__ import annotations

import math

import pytest
import torch

from ranktower.blocks.light_se import LightSE


def refined(fields: list[list[float]], weight: list[list[float]], bias: list[float]) -> list[list[float]]:
    """The block for one row, from its formula."""
    squeezed = [sum(field) / len(field) for field in fields]
    logits = [bias[f] + sum(w * z for w, z in zip(weight[f], squeezed, strict=True)) for f in range(len(fields))]
    total = sum(math.exp(logit) for logit in logits)
    return [[x + math.exp(logit) / total * x for x in field] for logit, field in zip(logits, fields, strict=True)]


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    block = LightSE(4).double()
    fields = 3 * torch.randn(5, 4, 6, dtype=torch.float64)
    weight, bias = block.excitation.weight.tolist(), block.excitation.bias.tolist()
    expected = [refined(row, weight, bias) for row in fields.tolist()]
    torch.testing.assert_close(block(fields).tolist(), expected, rtol=1e-12, atol=1e-12)


def test_the_weights_of_a_side_sum_to_one() -> None:
    # With all fields equal to 1 everywhere, what is added to a field is its weight.
    fields = torch.ones(2, 7, 3, dtype=torch.float64)
    added = (LightSE(7).double()(fields) - fields)[..., 0]
    assert added.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert (added > 0).all()
