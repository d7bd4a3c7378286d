"""Gated Cross-Attention Network (paper §3.4.1, equations 5 and 6) over rows projected once a user and once an item."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ranktower.blocks.gated_attention_unit import Activation, GatedAttentionUnit


class ProjectedRows(NamedTuple):
    """What one side gives to the pair: its multi-embedding and its four projections, all computed without the other.

    Attributes:
        embedding: ``E [..., H, D]``.
        query: ``Q [..., H, A]`` and
        gate: ``U [..., H, A]``, of the branch in which this side is the query.
        key: ``K [..., H, A]`` and
        value: ``V [..., H, A]``, of the branch in which the other side is the query.
    """

    embedding: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor


class GatedCrossAttentionNetwork(nn.Module):
    """Two parallel branches, each with its own parameters.

    ``E'_u = LayerNorm(E_u + GAU(E_u, E_i, E_i))`` and ``E'_i = LayerNorm(E_i + GAU(E_i, E_u, E_u))``.
    """

    def __init__(self, width: int, attention_width: int, *, activation: Activation = "silu") -> None:
        super().__init__()
        self.user_branch = GatedAttentionUnit(width, attention_width, activation=activation)
        self.item_branch = GatedAttentionUnit(width, attention_width, activation=activation)
        self.user_norm = nn.LayerNorm(width)
        self.item_norm = nn.LayerNorm(width)

    def project_users(self, embedding: Tensor) -> ProjectedRows:
        """``E_u [..., Hu, D]`` to the user's projected rows."""
        return _project(embedding, asks=self.user_branch, answers=self.item_branch)

    def project_items(self, embedding: Tensor) -> ProjectedRows:
        """``E_i [..., Hi, D]`` to the items' projected rows."""
        return _project(embedding, asks=self.item_branch, answers=self.user_branch)

    def forward(self, users: ProjectedRows, items: ProjectedRows) -> tuple[Tensor, Tensor]:
        """Attend every user to each item of its own list, and back.

        The user is never expanded: its products with all L items are one matrix product a user.

        Args:
            users: rows of B users, ``[B, Hu, *]``.
            items: rows of L items a user, ``[B, L, Hi, *]``.

        Returns:
            ``E'_u [B, L, Hu, D]`` and ``E'_i [B, L, Hi, D]``.
        """
        num_item_heads = items.embedding.shape[2]
        # [B, L * Hi, A] x [B, A, Hu]: both products have the user as their small, shared right side.
        from_user = items.key.flatten(1, 2) @ users.query.transpose(1, 2)
        user_weights = torch.softmax(_by_item(from_user * self.user_branch.scale, num_item_heads), dim=2)
        user_attended = user_weights.transpose(2, 3) @ items.value

        from_items = items.query.flatten(1, 2) @ users.key.transpose(1, 2)
        item_weights = torch.softmax(from_items * self.item_branch.scale, dim=2)
        item_attended = _by_item(item_weights @ users.value, num_item_heads)

        user_output = self.user_branch.gated_output(user_attended, users.gate.unsqueeze(1))
        item_output = self.item_branch.gated_output(item_attended, items.gate)
        return (
            self.user_norm(users.embedding.unsqueeze(1) + user_output),
            self.item_norm(items.embedding + item_output),
        )


def _project(embedding: Tensor, *, asks: GatedAttentionUnit, answers: GatedAttentionUnit) -> ProjectedRows:
    query, gate = asks.project_query(embedding)
    key, value = answers.project_key_value(embedding)
    return ProjectedRows(embedding, query, key, value, gate)


def _by_item(rows: Tensor, num_item_heads: int) -> Tensor:
    """``[B, L * Hi, *]`` to ``[B, L, Hi, *]``; L is left to the tensor, so that an exported graph takes any."""
    return rows.reshape(rows.shape[0], -1, num_item_heads, rows.shape[2])
