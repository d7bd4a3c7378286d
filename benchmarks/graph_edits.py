"""Variants of ``scorer.onnx`` that were tried and not kept, each made from today's graph by replacing a few nodes.

Names of values and axes are those of ``model_export.scorer_graph``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from model_export.row_graph import OPSET
from ranktower.models import RankTower

_MICROSOFT = "com.microsoft"
_ATTENTIONS = ("user_attention", "item_attention")
_LOGITS = ("iq", "ik", "u_logits_by_item", "u_logits", "i_logits", "logits")


@dataclass(frozen=True)
class Edit:
    """Nodes by the outputs that go, and the text of what comes in their place."""

    removed: Sequence[str]
    text: str
    tensors: Mapping[str, Sequence[int] | NDArray[np.float32]] = field(default_factory=dict)


# Rows are cut first, and only what needs candidates last is turned; queries and keys are multiplied as they lie.
SPLIT_BEFORE_TURNING = Edit(
    ("i_turned", "i_tag", *_LOGITS),
    """
  i_tag, i_e_rows, i_q, i_k, i_v_rows, i_g_rows = Split <axis = 1> (item_rows, i_split)
  i_e = Transpose <perm = [1, 0]> (i_e_rows)
  i_v = Transpose <perm = [1, 0]> (i_v_rows)
  i_g = Transpose <perm = [1, 0]> (i_g_rows)
  iq = Reshape (i_q_wide, by_head)
  ik = Reshape (i_k_wide, by_head)
  u_logits_flat = com.microsoft.FusedMatMul <transB = 1> (uq_scaled, ik)
  u_logits_rows = Reshape (u_logits_flat, by_pair)
  u_logits = Transpose <perm = [0, 2, 1]> (u_logits_rows)
  i_logits_flat = com.microsoft.FusedMatMul <transB = 1> (uk_scaled, iq)
  i_logits_rows = Reshape (i_logits_flat, by_pair)
  i_logits = Transpose <perm = [2, 0, 1]> (i_logits_rows)
  logits = Add (u_logits, i_logits)
""",
    {"by_head": [-1, 32], "by_pair": [4, -1, 4]},
)

# As above, but one batched product whose batch is the second axis of the rows gives both logits, candidates last.
TRANSPOSED_BATCH = Edit(
    ("i_turned", "i_tag", "i_q_wide", "i_k_wide", "iq", "ik", "u_logits_by_item", "i_logits"),
    """
  i_tag, i_e_rows, i_qk, i_vg_rows = Split <axis = 1> (item_rows, i_split_4)
  i_e = Transpose <perm = [1, 0]> (i_e_rows)
  i_vg = Transpose <perm = [1, 0]> (i_vg_rows)
  i_v, i_g = Split <axis = 0> (i_vg, halves)
  i_qk_wide = Cast <to = 1> (i_qk)
  i_qk_heads = Reshape (i_qk_wide, by_both)
  u_both = Concat <axis = 0> (uk_scaled, uq_scaled)
  u_both_3 = Reshape (u_both, two)
  u_both_4 = Expand (u_both_3, two_by_head)
  u_both_8 = Reshape (u_both_4, eight)
  both_logits = com.microsoft.FusedMatMul <transB = 1, transBatchB = 1> (u_both_8, i_qk_heads)
  i_logits, u_logits_by_item = Split <axis = 0> (both_logits, fours)
""",
    {
        "i_split_4": [4, 128, 256, 256], "halves": [128, 128], "fours": [4, 4], "by_both": [-1, 8, 32],
        "two": [2, 1, 4, 32], "two_by_head": [2, 4, 4, 32], "eight": [8, 4, 32],
    },
)  # fmt: skip

# One Cast of the whole rows, before they are turned.
WIDENED_BEFORE_TURNING = Edit(
    ("i_turned", "i_e_wide", "i_q_wide", "i_k_wide", "i_v_wide", "i_g_wide", "i_tag"),
    """
  i_rows_wide = Cast <to = 1> (item_rows)
  i_turned = Transpose <perm = [1, 0]> (i_rows_wide)
  i_tag, i_e_wide, i_q_wide, i_k_wide, i_v_wide, i_g_wide = Split <axis = 0> (i_turned, i_split)
""",
)

# ONNX Runtime's Softmax in place of the five operators that it is written out as.
SOFTMAX = Edit(
    (*(f"{side}_{part}" for side in "ui" for part in ("largest", "shifted", "exp", "sum")), *_ATTENTIONS),
    "user_attention = Softmax <axis = 1> (u_logits)  item_attention = Softmax <axis = 1> (i_logits)",
)


_NORMALISED = """
  {s}_square = Mul ({s}_x, {s}_x)
  {s}_variance = ReduceMean ({s}_square, axis_1)
  {s}_guarded = Add ({s}_variance, {s}_epsilon)
  {s}_deviation = Sqrt ({s}_guarded)
  {s}_inverse = Reciprocal ({s}_deviation)
  {s}_scaled = Mul ({s}_x, {s}_inverse)
  {s}_y = BatchNormalization <epsilon = 0.0> ({s}_scaled, {s}_weight, {s}_bias, zeros, ones)
  {s}_y_square = Mul ({s}_y, {s}_y)
  {s}_y_sum = ReduceSum ({s}_y_square, axis_1)
  {s}_floor = Max ({s}_y_sum, tiny)
  {s}_length = Sqrt ({s}_floor)
  {s}_inverse_length = Reciprocal ({s}_length)
"""
_COSINES_OF_VECTORS = """
  u_y_4 = Unsqueeze (u_y, axis_1)
  products = Mul (u_y_4, i_y)
  dots = ReduceSum <keepdims = 0> (products, axis_2)
  i_inverse_length_2 = Squeeze (i_inverse_length, axis_1)
  towards_user = Mul (dots, i_inverse_length_2)
"""


def normalised_vectors(graph: onnx.ModelProto, model: RankTower) -> Edit:
    """LayerNorm's outputs made in full, and lengths and products taken of them; else they are sums over its input."""
    network = model.cross_attention
    tensors: dict[str, Sequence[int] | NDArray[np.float32]] = {}
    for side, norm in (("u", network.user_norm), ("i", network.item_norm)):
        tensors[f"{side}_weight"], tensors[f"{side}_bias"] = (
            parameter.detach().numpy() for parameter in (norm.weight, norm.bias)
        )
    tensors["zeros"] = np.zeros(model.config.width, dtype=np.float32)
    tensors["ones"] = np.ones(model.config.width, dtype=np.float32)
    text = _NORMALISED.replace("{s}", "u") + _NORMALISED.replace("{s}", "i") + _COSINES_OF_VECTORS
    return Edit(sorted(_between(graph, {"u_x", "i_x"}, {"towards_user", "u_inverse_length"})), text, tensors)


def _between(graph: onnx.ModelProto, start: set[str], end: set[str]) -> set[str]:
    """Values that depend on one in ``start`` and that one in ``end`` depends on, those in ``end`` included."""
    behind, needed = set(start), set(end)
    for node in graph.graph.node:
        if behind & set(node.input):
            behind |= set(node.output)
    for node in reversed(graph.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    return (behind & needed) - start


def edited(model: onnx.ModelProto, edit: Edit) -> onnx.ModelProto:
    """A copy of ``model`` with the nodes replaced, in an order that ONNX accepts.

    Raises:
        ValueError: the graph has no node with one of the outputs to remove.
    """
    graph = f"edit (float[n] unused) => (float[n] none) {{ {edit.text} }}"
    added = list(parser.parse_graph(graph).node)
    absent = set(edit.removed) - {name for node in model.graph.node for name in node.output}
    if absent:
        raise ValueError(f"removed: the graph gives no {', '.join(sorted(absent))}")
    nodes = [node for node in model.graph.node if not set(edit.removed) & set(node.output)]
    tensors = list(model.graph.initializer)
    tensors += [numpy_helper.from_array(np.asarray(value), name) for name, value in edit.tensors.items()]
    known = {tensor.name for tensor in tensors} | {value.name for value in model.graph.input}
    ordered = _ordered([*nodes, *added], known)
    inputs, outputs = list(model.graph.input), list(model.graph.output)
    made = helper.make_graph(ordered, model.graph.name, inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=model.ir_version)


def _ordered(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Every node behind those whose outputs it takes."""
    ordered: list[onnx.NodeProto] = []
    left = nodes
    while left:
        ready = [node for node in left if all(not name or name in known for name in node.input)]
        if not ready:
            raise ValueError(f"nodes: nothing gives the inputs of {left[0].output[0]}")
        ordered += ready
        known |= {name for node in ready for name in node.output}
        left = [node for node in left if node not in ready]
    return ordered
