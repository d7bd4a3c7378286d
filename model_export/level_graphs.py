"""``maxsim.onnx`` and ``pooled.onnx``: what the ladder falls back on, over the multi-embeddings alone.

Written like ``model_export.scorer_graph``, candidates last, with its names. ``docs/adr/0026`` tells which similarities
were compared.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import ArrayLike

from model_export.row_graph import build_graph
from model_export.scorer_graph import as_array
from ranktower.blocks.maximum_similarity import MINIMUM_SQUARED_NORM
from ranktower.embedding_store.codec import RowDtype
from ranktower.models import RankTower
from ranktower.release import LevelGraph

# The user's vectors {u_y} [Hu, D], each divided by its length and by tau, so that a product is a part of the score.
_USER = """
  u_square = Mul ({u_y}, {u_y})
  u_squared_length = ReduceSum (u_square, axis_1)
  u_floor = Max (u_squared_length, tiny)
  u_length = Sqrt (u_floor)
  u_divisor = Mul (u_length, tau)
  user = Div ({u_y}, u_divisor)
"""

# The model with the attention's output left out: LayerNorm, then equation 13. Of an item's LayerNorm only lengths and
# products are made, as in the scorer.
_MAXSIM = f"""
  u_mean = ReduceMean (u_embedding, axis_1)
  u_x = Sub (u_embedding, u_mean)
  u_x_square = Mul (u_x, u_x)
  u_variance = ReduceMean (u_x_square, axis_1)
  u_guarded = Add (u_variance, u_epsilon)
  u_deviation = Sqrt (u_guarded)
  u_scaled = Div (u_x, u_deviation)
  u_weighted = Mul (u_scaled, u_weight)
  u_y = Add (u_weighted, u_bias)
  {_USER.format(u_y="u_y")}
  u_of_x = Mul (user, i_weight)
  u_constant = MatMul (user, i_bias)

  i_mean = ReduceMean (embedding, axis_1)
  i_x = Sub (embedding, i_mean)
  i_square = Mul (i_x, i_x)
  i_squares = MatMul (i_of_square, i_square)
  i_variance, i_weighted_square = Split <axis = 1> (i_squares, one_and_one)
  of_x = Concat <axis = 0> (u_of_x, i_of_x)
  sums = MatMul (of_x, i_x)
  dots, i_own = Split <axis = 1> (sums, users_and_one)
  i_guarded = Add (i_variance, i_epsilon)
  i_deviation = Sqrt (i_guarded)
  i_inverse = Reciprocal (i_deviation)
  i_scaled_once = Mul (i_weighted_square, i_inverse)
  i_with_own = Add (i_scaled_once, i_own)
  i_scaled_twice = Mul (i_with_own, i_inverse)
  i_squared_length = Add (i_scaled_twice, i_bias_square)
  i_floor = Max (i_squared_length, tiny)
  i_length = Sqrt (i_floor)
  scaled_dots = Mul (dots, i_inverse)
  products = Add (scaled_dots, u_constant)
  cosines = Div (products, i_length)
  best = ReduceMax (cosines, axis_0)
  total = ReduceSum <keepdims = 0> (best, axes_01)
  all_cosines = ReduceSum <keepdims = 0> (cosines, axes_01)
  nothing = Mul (all_cosines, zero)
  scores = Add (total, nothing)
"""

# One vector a side. ReduceSum over the first axis would take twice as long as Sum.
_POOLED = f"""
  {_USER.format(u_y="u_embedding")}
  u_sum = ReduceSum (user, axis_0)
  {{heads}} = Split <axis = 0> (embedding, i_heads)
  i_sum = Sum ({{heads}})
  i_square = Mul (i_sum, i_sum)
  i_squared_length = MatMul (ones, i_square)
  i_floor = Max (i_squared_length, tiny)
  i_length = Sqrt (i_floor)
  dots = MatMul (u_sum, i_sum)
  cosines = Div (dots, i_length)
  scores = Squeeze (cosines, axes_01)
"""


def build_level(model: RankTower, level: LevelGraph, *, dtype: RowDtype) -> onnx.ModelProto:
    """Rows of one user ``[1, tag + Hu * D]`` and N items ``[N, tag + Hi * D]`` to ``scores [N]``, not calibrated.

    A row with a value that is not finite gets a score that is not finite.

    Args:
        model: gives the weights of LayerNorm and tau.
        level: ``maxsim`` is ``sum_p max_q cos(LayerNorm(E_u)[p], LayerNorm(E_i)[q]) / tau``; ``pooled`` is
            ``sum_p cos(E_u[p], sum_q E_i[q]) / tau``, a product of one vector a side.
        dtype: of the rows, which are of kind ``embedding``.
    """
    heads = ", ".join(f"i_head_{head}" for head in range(model.config.num_item_heads))
    body = _MAXSIM if level == "maxsim" else _POOLED.format(heads=heads)
    return build_graph(
        body,
        _constants(model),
        config=model.config,
        kind="embedding",
        dtype=dtype,
        outputs={"scores": "candidates"},
    )


def _constants(model: RankTower) -> dict[str, ArrayLike]:
    users, items, width = model.cross_attention.user_norm, model.cross_attention.item_norm, model.config.width
    weight, bias = as_array(items.weight), as_array(items.bias)
    return {
        "u_weight": as_array(users.weight), "u_bias": as_array(users.bias), "u_epsilon": users.eps,
        "i_weight": weight, "i_bias": bias[:, None], "i_epsilon": items.eps,
        "i_of_square": np.stack([np.full(width, 1.0 / width), weight**2]), "i_of_x": 2 * (weight * bias)[None],
        "i_bias_square": bias @ bias, "tau": model.similarity.tau.item(), "tiny": MINIMUM_SQUARED_NORM, "zero": 0.0,
        "ones": np.ones((1, width)), "i_heads": np.ones(model.config.num_item_heads, dtype=np.int64),
        "one_and_one": np.array([1, 1]), "users_and_one": np.array([model.config.num_user_heads, 1]),
    }  # fmt: skip
