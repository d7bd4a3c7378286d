"""The graphs of any pre-ranker, traced by torch's exporter: both encoders, and the scorer over their rows.

RankTower's own are made for serving (``model_export.scorer_graph``); these make any other model's cost and scores
measurable outside torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model_export.graphs import TRACED_ROWS, trace, trace_tower
from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.embedding_store.codec import Side
from ranktower.models import PreRanker
from ranktower.models.pre_ranker import Rows


class EncoderGraph(nn.Module):
    """One side of a model from encoded features to its rows."""

    def __init__(self, model: PreRanker, side: Side) -> None:
        super().__init__()
        self.model, self.side = model, side

    def forward(self, codes: Tensor, *bags: Tensor) -> Rows:
        """``codes [n, F]`` and, a bag field, values ``[n, T]`` and length ``[n]`` to rows ``[n, ...]``."""
        encode = self.model.encode_users if self.side == "user" else self.model.encode_items
        return tuple(encode(SideFeatures(codes, bags[0::2], bags[1::2])))


class ScorerGraph(nn.Module):
    """Rows of one user ``[1, ...]`` and of N items ``[N, ...]`` to logits ``[N]``."""

    def __init__(self, model: PreRanker, num_user_rows: int) -> None:
        super().__init__()
        self.model, self.num_user_rows = model, num_user_rows

    def forward(self, *rows: Tensor) -> Tensor:
        """The user's arrays first, then the items'."""
        items = tuple(array.unsqueeze(0) for array in rows[self.num_user_rows :])
        return self.model.score_pairs(rows[: self.num_user_rows], items).squeeze(0)


def row_names(side: Side, rows: Sequence[Tensor]) -> list[str]:
    """``user_0``, ``user_1``, ...: names of a side's arrays, as its tower gives them and the scorer takes them."""
    return [f"{side}_{place}" for place in range(len(rows))]


def write_encoder(
    model: PreRanker, side: Side, sizes: FieldSizes, path: Path, *, bag_slots: Mapping[str, int], rows: Rows
) -> None:
    """Write one side's tower, as ``trace_tower`` does; ``rows`` are some of what it gives."""
    trace_tower(EncoderGraph(model, side), sizes, path, bag_slots=bag_slots, outputs=row_names(side, rows))


def write_pair_scorer(model: PreRanker, path: Path, *, users: Rows, items: Rows) -> None:
    """Write the scorer: inputs ``user_<k>`` of one user and ``item_<k>`` of N candidates, output ``scores [N]``.

    ``users`` and ``items`` are some rows ``[n, ...]``, of which only the shapes matter.
    """
    candidates = torch.export.Dim("candidates")
    one = [torch.zeros(1, *array.shape[1:]) for array in users]
    several = [torch.zeros(TRACED_ROWS, *array.shape[1:]) for array in items]
    proto = trace(
        ScorerGraph(model, len(users)),
        (*one, *several),
        input_names=row_names("user", users) + row_names("item", items),
        output_names=["scores"],
        dynamic_shapes={"rows": (*({} for _ in one), *({0: candidates} for _ in several))},
    )
    path.write_bytes(proto.SerializeToString(deterministic=True))
