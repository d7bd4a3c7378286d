"""The graph that the peers run: the paper's cross-attention as written, cut from our model's own parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from model_export.graphs import TRACED_ROWS, trace
from ranktower.blocks import GatedAttentionUnit
from ranktower.models import RankTower


class NaiveGraph(nn.Module):
    """Multi-embeddings of one user and N items to N logits: the user expanded, every projection made per pair.

    ``E'_u = LayerNorm(E_u + GAU(E_u, E_i, E_i))``, ``E'_i = LayerNorm(E_i + GAU(E_i, E_u, E_u))`` and the maximum
    similarity of both (paper §3.4.1 to §3.5), nothing computed ahead. It gives the scores of ``model.score_pairs``.
    """

    def __init__(self, model: RankTower) -> None:
        super().__init__()
        self.cross_attention = model.cross_attention
        self.similarity = model.similarity

    def forward(self, user: Tensor, items: Tensor) -> Tensor:
        """``E_u [1, Hu, D]`` and ``E_i [N, Hi, D]`` to logits ``[N]``."""
        users = user.expand(items.shape[0], -1, -1)
        attention = self.cross_attention
        user_output = attention.user_norm(users + attend(attention.user_branch, users, items))
        item_output = attention.item_norm(items + attend(attention.item_branch, items, users))
        scores: Tensor = self.similarity(user_output, item_output)
        return scores


def attend(unit: GatedAttentionUnit, asking: Tensor, answering: Tensor) -> Tensor:
    """Equations 7 to 11 for N pairs: ``[N, Hq, D]`` and ``[N, Hk, D]`` to ``[N, Hq, D]``; either N may be 1."""
    query, gate = unit.project_query(asking)
    key, value = unit.project_key_value(answering)
    weights = torch.softmax(query @ key.transpose(1, 2) * unit.scale, dim=-1)
    return unit.gated_output(weights @ value, gate)


def write_naive_graph(model: RankTower, path: Path) -> None:
    """Write the graph: ``user [1, Hu, D]`` and ``items [N, Hi, D]`` to ``scores [N]``."""
    config = model.config
    user = torch.randn(1, config.num_user_heads, config.width)
    items = torch.randn(TRACED_ROWS, config.num_item_heads, config.width)
    proto = trace(
        NaiveGraph(model),
        (user, items),
        input_names=["user", "items"],
        output_names=["scores"],
        dynamic_shapes={"user": {}, "items": {0: torch.export.Dim("candidates")}},
    )
    path.write_bytes(proto.SerializeToString(deterministic=True))
