"""The squeeze-and-excitation block of COLD, cut where the sides meet."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """One part's share of ``s = sigmoid(W [e_1, ..., e_F] + b)``, a weight in (0, 1) for every field.

    Wang et al. 2020 (section 3) weigh all fields of user, item and cross features together, each by all numbers of all
    embeddings, not by their means. ``W`` splits by columns into the parts' own matrices, so a part's product is
    computed once a user or item; the sum of the parts' shares and its sigmoid are all that is left for a pair.
    """

    def __init__(self, input_width: int, num_weights: int, *, bias: bool = False) -> None:
        """``input_width`` of this part's embeddings together, ``num_weights`` of all parts; one part carries ``b``."""
        super().__init__()
        self.excitation = nn.Linear(input_width, num_weights, bias=bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """This part's embeddings side by side ``[..., input_width]`` to its share of the logits ``[..., F]``."""
        share: Tensor = self.excitation(embeddings)
        return share
