from __future__ import annotations

import torch

from ranktower.blocks.squeeze_excitation import SqueezeExcitation


def test_the_parts_shares_sum_to_the_whole_blocks_logits() -> None:
    """``W [mean e_1, ..., mean e_F] + b`` over the concatenated fields, written out, against the parts' sum."""
    torch.manual_seed(1)
    parts = [SqueezeExcitation(n, 6, bias=n == 2).double() for n in (2, 3, 1)]
    fields = [torch.randn(4, n, 5, dtype=torch.float64) for n in (2, 3, 1)]
    together = sum(part(own) for part, own in zip(parts, fields, strict=True))

    whole = torch.cat([part.excitation.weight for part in parts], dim=1)
    for row in range(4):
        means = [field.mean() for own in fields for field in own[row]]
        for f in range(6):
            logit = parts[0].excitation.bias[f] + sum(whole[f, i] * mean for i, mean in enumerate(means))
            torch.testing.assert_close(together[row, f], logit, rtol=1e-12, atol=1e-12)


def test_one_part_carries_the_bias() -> None:
    assert SqueezeExcitation(3, 6).excitation.bias is None
    assert SqueezeExcitation(3, 6, bias=True).excitation.bias.shape == (6,)
