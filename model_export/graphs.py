"""The ONNX graphs of a release: towers cut from a trained model by torch's exporter, the others written by hand."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from model_export.level_graphs import build_level
from model_export.row_graph import OPSET
from model_export.scorer_graph import build_scorer
from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.embedding_store.codec import ARRAYS, RowDtype, RowKind
from ranktower.models import RankTower
from ranktower.release import LevelGraph

# Export traces with a batch of this many rows. 0 and 1 would be baked into the graph as constants.
TRACED_ROWS = 3


class TowerGraph(nn.Module):
    """One side from encoded features to the arrays of its row: a user's embedding, an item's projections as well."""

    def __init__(self, model: RankTower, side: str) -> None:
        super().__init__()
        self.tower = model.user_tower if side == "user" else model.item_tower
        self.cross_attention = model.cross_attention
        self.side = side

    def forward(self, codes: Tensor, *bags: Tensor) -> tuple[Tensor, ...]:
        """``codes [n, F]`` and, a bag field, values ``[n, T]`` and length ``[n]`` to the row's arrays ``[n, H, *]``."""
        embedding = self.tower(SideFeatures(codes, bags[0::2], bags[1::2]))
        if self.side == "user":
            return (embedding,)
        return tuple(self.cross_attention.project_items(embedding))


def write_scorer(model: RankTower, path: Path, *, kind: RowKind, dtype: RowDtype) -> None:
    """Write the per-pair graph over stored rows of one kind and dtype, see ``model_export.scorer_graph``."""
    path.write_bytes(build_scorer(model, kind=kind, dtype=dtype).SerializeToString(deterministic=True))


def write_level(model: RankTower, path: Path, *, level: LevelGraph, dtype: RowDtype) -> None:
    """Write the graph of a lower level of the ladder, see ``model_export.level_graphs``."""
    path.write_bytes(build_level(model, level, dtype=dtype).SerializeToString(deterministic=True))


def tower_outputs(side: str) -> list[str]:
    """Names of what a tower gives."""
    return [f"{side}_{array}" for array in (ARRAYS[:1] if side == "user" else ARRAYS)]


def write_tower(model: RankTower, side: str, sizes: FieldSizes, path: Path, *, bag_slots: Mapping[str, int]) -> None:
    """Write one tower of RankTower, with the outputs ``<side>_<array>``; the rest as ``trace_tower``."""
    trace_tower(TowerGraph(model, side), sizes, path, bag_slots=bag_slots, outputs=tower_outputs(side))


def trace_tower(
    graph: nn.Module, sizes: FieldSizes, path: Path, *, bag_slots: Mapping[str, int], outputs: Sequence[str]
) -> None:
    """Write one side's graph from features to rows: inputs ``codes`` and ``<bag>_values``, ``<bag>_length``.

    Args:
        graph: takes them in this order, with as many outputs as have a name.
        sizes: the side's fields.
        path: file to write.
        bag_slots: T of every multi-valued field, fixed in the graph.
        outputs: names of what it gives.
    """
    inputs = [torch.zeros(TRACED_ROWS, len(sizes.single), dtype=torch.int64)]
    names = ["codes"]
    for name in sizes.bags:
        inputs.append(torch.zeros(TRACED_ROWS, bag_slots[name], dtype=torch.int64))
        inputs.append(torch.ones(TRACED_ROWS, dtype=torch.int64))
        names += [f"{name}_values", f"{name}_length"]
    rows = torch.export.Dim("rows")
    proto = trace(
        graph,
        tuple(inputs),
        input_names=names,
        output_names=outputs,
        dynamic_shapes=_tower_shapes([{0: rows}] * len(inputs)),
    )
    path.write_bytes(proto.SerializeToString(deterministic=True))


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: dict[str, object],
) -> onnx.ModelProto:
    """``module`` as ONNX, by torch's exporter, checked; ``dynamic_shapes`` as ``torch.export`` wants them."""
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
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    return proto


def _tower_shapes(dynamic: Sequence[Mapping[int, object]]) -> dict[str, object]:
    # ``*bags`` of the forward is one positional parameter to torch.export, hence the nested tuple.
    # A side without a multi-valued field calls the graph without ``*bags``, and torch.export wants no key for it then.
    return {"codes": dynamic[0], "bags": tuple(dynamic[1:])} if len(dynamic) > 1 else {"codes": dynamic[0]}
