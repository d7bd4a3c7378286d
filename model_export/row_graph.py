"""What every graph over stored rows begins with, and how its text becomes a checked ONNX model.

Axes and names as in ``model_export.scorer_graph``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import numpy_helper, parser

from ranktower.embedding_store.codec import TAG_SIZE, RowDtype, RowKind
from ranktower.models import RankTowerConfig

OPSET = 18

# One user row [1, tag + Hu * D] to E_u [Hu, D]; N item rows to E_i [Hi, D, N], turned once, widened once, cut without
# strides.
_ROWS = """
  u_tag, u_values = Split <axis = 1> (user_rows, u_split)
  {u_widen}
  u_embedding = Reshape (u_wide, u_shape)
  i_turned = Transpose <perm = [1, 0]> (item_rows)
  i_tag, {i_parts} = Split <axis = 0> (i_turned, i_split)
  {i_widen}
  embedding = Reshape (i_e_wide, i_shape_d)
"""
# And the four projections of a projected row, each to [Hi, A, N].
_PROJECTIONS = """
  iq = Reshape (i_q_wide, i_shape_a)
  ik = Reshape (i_k_wide, i_shape_a)
  iv = Reshape (i_v_wide, i_shape_a)
  ig = Reshape (i_g_wide, i_shape_a)
"""


def build_graph(
    body: str,
    tensors: Mapping[str, ArrayLike],
    *,
    config: RankTowerConfig,
    kind: RowKind,
    dtype: RowDtype,
    outputs: Mapping[str, str],
) -> onnx.ModelProto:
    """A model with the inputs ``user_rows`` and ``item_rows``: stored rows as they are, seen as numbers of their dtype,
    the tag's bytes in front included. Everything is computed in float32.

    Args:
        body: lines of ONNX text, from ``u_embedding``, ``embedding`` and, of projected rows, ``iq``, ``ik``, ``iv`` and
            ``ig`` on. It may use ``axis_0``, ``axis_1``, ``axis_2`` and ``axes_01``.
        tensors: constants of the body, by name, float32 but for arrays of int64. One that is not used is left out.
        config: gives Hu, Hi, D and A.
        kind: of the item rows.
        dtype: of all rows.
        outputs: axes by name, such as ``{"scores": "candidates"}``.
    """
    parts = ["i_e", "i_q", "i_k", "i_v", "i_g"] if kind == "projected" else ["i_e"]
    begin = (_ROWS + (_PROJECTIONS if kind == "projected" else "")).format(
        u_widen=_widen("u_values", "u_wide", dtype),
        i_parts=", ".join(parts),
        i_widen="  ".join(_widen(part, f"{part}_wide", dtype) for part in parts),
    )
    constants = {name: _constant(value) for name, value in {**_row_shapes(config, kind, dtype), **tensors}.items()}
    element = "float16" if dtype == "float16" else "float"
    user_size, item_size = (int(constants[name].sum()) for name in ("u_split", "i_split"))
    given = ", ".join(f"float[{axes}] {name}" for name, axes in outputs.items())
    text = f"""<ir_version: 8, opset_import: ["" : {OPSET}], producer_name: "ranktower">
scorer ({element}[1, {user_size}] user_rows, {element}[candidates, {item_size}] item_rows) => ({given}) {{
{begin}{body} }}"""
    proto = parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _widen(value: str, wide: str, dtype: RowDtype) -> str:
    return f"{wide} = Cast <to = 1> ({value})" if dtype == "float16" else f"{wide} = Identity ({value})"


def _row_shapes(config: RankTowerConfig, kind: RowKind, dtype: RowDtype) -> dict[str, ArrayLike]:
    """Axes, shapes, and where a row is cut, in numbers of its dtype."""
    tag = TAG_SIZE // np.dtype(dtype).itemsize
    heads, embedding = config.num_item_heads, config.num_item_heads * config.width
    projections = [heads * config.attention_width] * 4 if kind == "projected" else []
    values = {
        "u_split": [tag, config.num_user_heads * config.width],
        "u_shape": [config.num_user_heads, config.width],
        "i_split": [tag, embedding, *projections],
        "i_shape_d": [heads, config.width, -1],
        "i_shape_a": [heads, config.attention_width, -1],
        "axis_0": [0], "axis_1": [1], "axis_2": [2], "axes_01": [0, 1],
    }  # fmt: skip
    return {name: np.array(value, dtype=np.int64) for name, value in values.items()}


def _constant(value: ArrayLike) -> NDArray[np.generic]:
    array = np.asarray(value)
    return np.ascontiguousarray(array, dtype=np.int64 if array.dtype == np.int64 else np.float32)
