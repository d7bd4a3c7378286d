"""Cross network of DCN-V2 (Wang et al. 2021, equations 1 and 2) in its low-rank form."""

from __future__ import annotations

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 * (U_l V_l^T x_l + b_l) + x_l``; ``V_l`` and ``U_l`` are ``[width, rank]``.

    Layer l holds every product of up to l + 1 inputs. A full ``W_l`` of a few hundred inputs costs more than the
    rest of the network, and the authors found little lost by a low rank.
    """

    def __init__(self, width: int, *, num_layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(num_layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(num_layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """``x_0 [..., width]`` to the last layer's ``[..., width]``."""
        crossed = inputs
        for down, up in zip(self.down, self.up, strict=True):
            crossed = inputs * up(down(crossed)) + crossed
        return crossed
