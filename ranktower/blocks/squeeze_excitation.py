"""The squeeze-and-excitation block of COLD, cut where the sides meet."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """One part's share of ``s = sigmoid(W [mean e_1, ..., mean e_F] + b)``, a weight in (0, 1) for every field.

    Wang et al. 2020 weigh all fields of user, item and cross features together. ``W`` splits by columns
    into the parts' own matrices, so a part's product is computed once a user or item; the sum of the parts' shares and
    its sigmoid are all that is left for a pair.
    """

    def __init__(self, num_fields: int, num_weights: int, *, bias: bool = False) -> None:
        """``num_fields`` of this part, ``num_weights`` of all parts; one part carries ``b``."""
        super().__init__()
        self.excitation = nn.Linear(num_fields, num_weights, bias=bias)

    def forward(self, fields: Tensor) -> Tensor:
        """This part's field embeddings ``[..., F_part, width]`` to its share of the logits of ``s``, ``[..., F]``."""
        share: Tensor = self.excitation(fields.mean(dim=-1))
        return share
