from __future__ import annotations

import torch

from ranktower.blocks.squeeze_excitation import SqueezeExcitation


def test_the_parts_shares_sum_to_the_whole_blocks_logits() -> None:
    """``W [e_1, ..., e_F] + b`` over the fields side by side, number by number, against the parts' sum."""
    torch.manual_seed(1)
    widths, num_weights = (10, 15, 4), 6
    parts = [SqueezeExcitation(width, num_weights, bias=width == 10).double() for width in widths]
    embeddings = [torch.randn(4, width, dtype=torch.float64) for width in widths]
    together = sum(part(own) for part, own in zip(parts, embeddings, strict=True))

    whole = torch.cat([part.excitation.weight for part in parts], dim=1).tolist()
    bias = parts[0].excitation.bias.tolist()
    for row in range(4):
        numbers = [number for own in embeddings for number in own[row].tolist()]
        for f in range(num_weights):
            logit = bias[f] + sum(weight * number for weight, number in zip(whole[f], numbers, strict=True))
            torch.testing.assert_close(together[row, f].item(), logit, rtol=1e-12, atol=1e-12)


def test_a_field_is_more_than_its_mean() -> None:
    torch.manual_seed(1)
    block = SqueezeExcitation(4, 3)
    embedding = torch.tensor([[1.0, -1.0, 2.0, -2.0]])
    assert block(embedding).abs().min() > 0.01


def test_one_part_carries_the_bias() -> None:
    assert SqueezeExcitation(3, 6).excitation.bias is None
    assert SqueezeExcitation(3, 6, bias=True).excitation.bias.shape == (6,)
