"""The three ONNX graphs of a release, cut from a trained model by torch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ranktower.blocks import FieldSizes, ProjectedRows, SideFeatures
from ranktower.models import RankTower

OPSET = 18
ARRAYS = ProjectedRows._fields
# Export traces with a batch of this many rows. 0 and 1 would be baked into the graph as constants.
_TRACED_ROWS = 3


class ScorerGraph(nn.Module):
    """The per-pair part: one user's projected rows and N items' to N logits. No tower, no projection, no expansion."""

    def __init__(self, model: RankTower) -> None:
        super().__init__()
        self.cross_attention = model.cross_attention
        self.similarity = model.similarity

    def forward(self, *rows: Tensor) -> Tensor:
        """Five user arrays ``[1, Hu, *]``, five item arrays ``[N, Hi, *]`` to logits ``[N]``."""
        users = ProjectedRows(*rows[: len(ARRAYS)])
        items = ProjectedRows(*(array.unsqueeze(0) for array in rows[len(ARRAYS) :]))
        scores: Tensor = self.similarity(*self.cross_attention(users, items))
        return scores.reshape(-1)


class TowerGraph(nn.Module):
    """One side from encoded features to its projected rows."""

    def __init__(self, model: RankTower, side: str, num_bags: int) -> None:
        super().__init__()
        self.tower = model.user_tower if side == "user" else model.item_tower
        self.cross_attention = model.cross_attention
        self.side, self.num_bags = side, num_bags

    def forward(self, codes: Tensor, *bags: Tensor) -> tuple[Tensor, ...]:
        """``codes [n, F]`` and, a bag field, values ``[n, T]`` and length ``[n]`` to the five arrays ``[n, H, *]``."""
        embedding = self.tower(SideFeatures(codes, bags[0::2], bags[1::2]))
        project = self.cross_attention.project_users if self.side == "user" else self.cross_attention.project_items
        return tuple(project(embedding))


def write_scorer(model: RankTower, path: Path) -> None:
    """Write ``scorer.onnx``: ``user_<array> [1, Hu, *]`` and ``item_<array> [N, Hi, *]`` to ``scores [N]``."""
    config = model.config
    widths = [config.width] + [config.attention_width] * (len(ARRAYS) - 1)
    users = [torch.randn(1, config.num_user_heads, width) for width in widths]
    items = [torch.randn(_TRACED_ROWS, config.num_item_heads, width) for width in widths]
    candidates = torch.export.Dim("candidates")
    _write(
        ScorerGraph(model),
        (*users, *items),
        path,
        input_names=[f"{side}_{array}" for side in ("user", "item") for array in ARRAYS],
        output_names=["scores"],
        dynamic=[{}] * len(ARRAYS) + [{0: candidates}] * len(ARRAYS),
    )


def write_tower(model: RankTower, side: str, sizes: FieldSizes, path: Path, *, bag_slots: Mapping[str, int]) -> None:
    """Write one tower: inputs ``codes`` and ``<bag>_values``, ``<bag>_length``; outputs ``<side>_<array>``,
    the names that the scorer takes.

    Args:
        side: "user" or "item".
        sizes: the side's fields.
        path: file to write.
        bag_slots: T of every multi-valued field, fixed in the graph.
    """
    inputs = [torch.zeros(_TRACED_ROWS, len(sizes.single), dtype=torch.int64)]
    names = ["codes"]
    for name in sizes.bags:
        inputs.append(torch.zeros(_TRACED_ROWS, bag_slots[name], dtype=torch.int64))
        inputs.append(torch.ones(_TRACED_ROWS, dtype=torch.int64))
        names += [f"{name}_values", f"{name}_length"]
    rows = torch.export.Dim("rows")
    _write(
        TowerGraph(model, side, len(sizes.bags)),
        tuple(inputs),
        path,
        input_names=names,
        output_names=[f"{side}_{array}" for array in ARRAYS],
        dynamic=[{0: rows}] * len(inputs),
    )


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Sequence[Mapping[int, object]],
) -> None:
    # ``*args`` of a forward is one positional parameter to torch.export, hence the nested tuple.
    shapes = {"rows": tuple(dynamic)} if isinstance(module, ScorerGraph) else _tower_shapes(dynamic)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The exporter deprecates parts of itself while it runs; nothing here can act on that.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=shapes,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _tower_shapes(dynamic: Sequence[Mapping[int, object]]) -> dict[str, object]:
    # A side without a multi-valued field calls the graph without ``*bags``, and torch.export wants no key for it then.
    return {"codes": dynamic[0], "bags": tuple(dynamic[1:])} if len(dynamic) > 1 else {"codes": dynamic[0]}
