"""``scorer.onnx``, operator by operator: what is left of the model for a pair, written for ONNX Runtime on a processor.

torch's exporter is not used here, because what this graph costs depends on its operators and on the order of its axes.
``docs/adr/0013`` tells what was measured. The layout is the point: candidates are the **last** axis, so that every
operation runs over long contiguous stretches and a sum over sub-spaces or widths is a sum of whole vectors.

Axes: ``N`` candidates, ``Hu``/``Hi`` sub-spaces, ``D`` embedding width, ``A`` attention width. In the names of values,
``u`` is the user's side and ``i`` the item's.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from model_export.row_graph import build_graph
from ranktower.blocks.gated_attention_unit import Activation
from ranktower.blocks.maximum_similarity import MINIMUM_SQUARED_NORM
from ranktower.embedding_store.codec import RowDtype, RowKind
from ranktower.models import RankTower

METADATA_KEY = "ranktower_scorer"
FORMULAS_VERSION = 1
"""Counted up with any change of what the constants mean: the native scorer takes them from this file by name."""

# phi of the Gated Attention Unit: {x} to {y}.
_ACTIVATIONS: dict[Activation, str] = {
    "silu": "{y}_sigmoid = Sigmoid({x})  {y} = Mul({x}, {y}_sigmoid)",
    "relu": "{y} = Relu({x})",
    "gelu": "{y}_rooted = Mul({x}, half_root)  {y}_erf = Erf({y}_rooted)  {y}_one = Add({y}_erf, one)"
    "  {y}_half = Mul({x}, half)  {y} = Mul({y}_half, {y}_one)",
}

# The user's four projections [Hu, A]. For a single user they cost a few microseconds, so a user's row holds none.
_USER = """
  uq_linear = MatMul (u_embedding, u_query)
  {uq}
  uk_linear = MatMul (u_embedding, u_key)
  {uk}
  uv_linear = MatMul (u_embedding, u_value)
  {uv}
  ug_linear = MatMul (u_embedding, u_gate)
  ug = Sigmoid (ug_linear)
"""

# The items' projections [Hi, A, N], where their rows hold none.
_ITEMS = """
  iq_linear = MatMul (i_query, embedding)
  {iq}
  ik_linear = MatMul (i_key, embedding)
  {ik}
  iv_linear = MatMul (i_value, embedding)
  {iv}
  ig_linear = MatMul (i_gate, embedding)
  ig = Sigmoid (ig_linear)
"""

# Equations 7 to 12, both branches. The softmax is written out: over an axis that is not the last, ONNX Runtime's own
# moves the whole tensor twice. LayerNorm's input x comes with its mean taken off: the projection that centres is part
# of the output weights, and the user's embedding is centred once.
_ATTENTION = """
  uq_scaled = Mul (uq, scale)
  u_logits_by_item = MatMul (uq_scaled, ik)
  u_logits = Transpose <perm = [1, 0, 2]> (u_logits_by_item)
  u_largest = ReduceMax (u_logits, axis_1)
  u_shifted = Sub (u_logits, u_largest)
  u_exp = Exp (u_shifted)
  u_sum = ReduceSum (u_exp, axis_1)
  user_attention = Div (u_exp, u_sum)
  u_weights_4 = Unsqueeze (user_attention, axis_2)
  u_weighted = Mul (u_weights_4, iv)
  u_attended = ReduceSum <keepdims = 0> (u_weighted, axis_1)
  ug_3 = Unsqueeze (ug, axis_1)
  u_gated_output = Mul (ug_3, u_output)
  u_change = MatMul (u_gated_output, u_attended)
  u_columns = Unsqueeze (u_embedding, axis_2)
  u_centred = MatMul (centre, u_columns)
  u_x = Add (u_change, u_centred)

  uk_scaled = Mul (uk, scale)
  i_logits = MatMul (uk_scaled, iq)
  i_largest = ReduceMax (i_logits, axis_1)
  i_shifted = Sub (i_logits, i_largest)
  i_exp = Exp (i_shifted)
  i_sum = ReduceSum (i_exp, axis_1)
  item_attention = Div (i_exp, i_sum)
  uv_turned = Transpose <perm = [1, 0]> (uv)
  i_attended = MatMul (uv_turned, item_attention)
  i_gated = Mul (ig, i_attended)
  i_change = MatMul (i_output, i_gated)
  i_mean = ReduceMean (embedding, axis_1)
  i_centred = Sub (embedding, i_mean)
  i_x = Add (i_change, i_centred)
"""

# LayerNorm of x [H, D, N], whose mean is 0 already, is y = weight * x * inverse + bias, with inverse [H, 1, N] the
# reciprocal of the deviation. y itself is never made: of it only lengths and cosines are wanted, and both are sums over
# D of x and of its square, under weights that are known beforehand. So x is read three times instead of written three
# times. With w for weight and b for bias, |y|^2 = inverse^2 sum(w^2 x^2) + 2 inverse sum(w b x) + |b|^2.
_NORM = """
  {s}_square = Mul ({s}_x, {s}_x)
  {s}_squares = MatMul ({s}_of_square, {s}_square)
  {s}_variance, {s}_weighted_square = Split <axis = 1> ({s}_squares, one_and_one)
  {s}_sums = MatMul ({s}_of_x, {s}_x)
  {s}_own, {s}_others = Split <axis = 1> ({s}_sums, one_and_one)
  {s}_guarded = Add ({s}_variance, {s}_epsilon)
  {s}_deviation = Sqrt ({s}_guarded)
  {s}_inverse = Reciprocal ({s}_deviation)
  {s}_scaled_once = Mul ({s}_weighted_square, {s}_inverse)
  {s}_with_own = Add ({s}_scaled_once, {s}_own)
  {s}_scaled_twice = Mul ({s}_with_own, {s}_inverse)
  {s}_squared_length = Add ({s}_scaled_twice, {s}_bias_square)
  {s}_floor = Max ({s}_squared_length, tiny)
  {s}_length = Sqrt ({s}_floor)
  {s}_inverse_length = Reciprocal ({s}_length)
  {s}_towards_other = Mul ({s}_others, {s}_inverse)
"""

# Equation 13 over the Hu x Hi products of a pair: y_u y_i = inverse_u inverse_i sum(w_u w_i x_u x_i) + inverse_u
# sum(w_u b_i x_u) + inverse_i sum(w_i b_u x_i) + sum(b_u b_i). Lengths and temperature multiply these products, not the
# vectors. The last lines let a value that is no number through: a maximum passes over it where another head is finite,
# and an infinite logit only takes a weight.
_SIMILARITY = """
  u_x_4 = Unsqueeze (u_x, axis_1)
  products = Mul (u_x_4, i_x)
  sums = MatMul (weights, products)
  dots = Squeeze (sums, axis_2)
  i_inverse_2 = Squeeze (i_inverse, axis_1)
  i_towards_other_2 = Squeeze (i_towards_other, axis_1)
  i_inverse_length_2 = Squeeze (i_inverse_length, axis_1)
  scaled_by_user = Mul (dots, u_inverse)
  scaled_by_both = Mul (scaled_by_user, i_inverse_2)
  i_constant = Add (i_towards_other_2, bias_product)
  with_item = Add (scaled_by_both, i_constant)
  with_both = Add (with_item, u_towards_other)
  towards_user = Mul (with_both, i_inverse_length_2)
  cosines = Mul (towards_user, u_inverse_length)
  best = ReduceMax <keepdims = 0> (cosines, axis_1)
  contributions = Mul (best, inverse_tau)
  total = ReduceSum <keepdims = 0> (contributions, axis_0)
  logits = Add (u_logits_by_item, i_logits)
  all_logits = ReduceSum <keepdims = 0> (logits, axes_01)
  all_cosines = ReduceSum <keepdims = 0> (cosines, axes_01)
  all_values = Add (all_logits, all_cosines)
  nothing = Mul (all_values, zero)
  scores = Add (total, nothing)
"""


def build_scorer(model: RankTower, *, kind: RowKind, dtype: RowDtype) -> onnx.ModelProto:
    """Rows of one user ``[1, tag + Hu * D]`` and N items ``[N, tag + Hi * (D + 4 A)]`` to ``scores [N]`` (logits).

    For ``/v1/explain`` it also gives the weights of both branches, ``user_attention [Hu, Hi, N]`` and ``item_attention
    [Hi, Hu, N]``, the ``cosines [Hu, Hi, N]`` and each user sub-space's part of the score, ``contributions [Hu, N]``.

    Args:
        model: gives the weights.
        kind: of the item rows; ``embedding`` rows are ``[N, tag + Hi * D]`` and projected in the graph.
        dtype: of the rows.
    """
    silent = _ACTIVATIONS[model.config.activation]
    activations = {name: silent.format(x=f"{name}_linear", y=name) for name in ("uq", "uk", "uv", "iq", "ik", "iv")}
    norms = [_NORM.replace("{s}", side) for side in ("u", "i")]
    projections = [_USER] if kind == "projected" else [_USER, _ITEMS]
    body = "".join([*projections, _ATTENTION, *norms, _SIMILARITY]).format(**activations)
    users, items = model.config.num_user_heads, model.config.num_item_heads
    outputs = {
        "scores": "candidates",
        "user_attention": f"{users}, {items}, candidates",
        "item_attention": f"{items}, {users}, candidates",
        "cosines": f"{users}, {items}, candidates",
        "contributions": f"{users}, candidates",
    }
    proto = build_graph(body, _weights(model), config=model.config, kind=kind, dtype=dtype, outputs=outputs)
    onnx.helper.set_model_props(proto, {METADATA_KEY: _metadata(model, kind, dtype)})
    return proto


def _metadata(model: RankTower, kind: RowKind, dtype: RowDtype) -> str:
    """What computes this graph without its operators, from its constants, must know of it: JSON."""
    config = model.config
    return json.dumps(
        {
            "version": FORMULAS_VERSION,
            "user_heads": config.num_user_heads,
            "item_heads": config.num_item_heads,
            "width": config.width,
            "attention_width": config.attention_width,
            "is_float16": dtype == "float16",
            "is_projected": kind == "projected",
            "activation": config.activation,
        }
    )


def _weights(model: RankTower) -> dict[str, ArrayLike]:
    """The constants of the graph, by name; linear maps stand as the side that multiplies them wants them."""
    network, width = model.cross_attention, model.config.width
    users, items = network.user_branch, network.item_branch
    centre = np.eye(width) - 1.0 / width  # takes the mean off
    u_weight, u_bias = as_array(network.user_norm.weight), as_array(network.user_norm.bias)
    i_weight, i_bias = as_array(network.item_norm.weight), as_array(network.item_norm.bias)
    mean = np.full(width, 1.0 / width)
    return {
        # The user asks in its own branch and is asked in the items'.
        "u_query": as_array(users.query.weight).T, "u_gate": as_array(users.gate.weight).T,
        "u_key": as_array(items.key.weight).T, "u_value": as_array(items.value.weight).T,
        "u_output": centre @ as_array(users.output.weight), "i_output": centre @ as_array(items.output.weight),
        "centre": centre, "scale": users.scale,
        "u_of_square": np.stack([mean, u_weight**2]), "i_of_square": np.stack([mean, i_weight**2]),
        "u_of_x": np.stack([2 * u_weight * u_bias, u_weight * i_bias]),
        "i_of_x": np.stack([2 * i_weight * i_bias, i_weight * u_bias]),
        "u_bias_square": u_bias @ u_bias, "i_bias_square": i_bias @ i_bias, "bias_product": u_bias @ i_bias,
        "weights": (u_weight * i_weight)[None], "zero": 0.0,
        "u_epsilon": network.user_norm.eps, "i_epsilon": network.item_norm.eps,
        "tiny": MINIMUM_SQUARED_NORM, "inverse_tau": 1.0 / model.similarity.tau.item(),
        "one": 1.0, "half": 0.5, "half_root": 0.5**0.5, "one_and_one": np.array([1, 1]),
        "i_query": as_array(items.query.weight), "i_gate": as_array(items.gate.weight),
        "i_key": as_array(users.key.weight), "i_value": as_array(users.value.weight),
    }  # fmt: skip


def as_array(parameter: object) -> NDArray[np.float64]:
    """A parameter's values in float64."""
    array: NDArray[np.float64] = parameter.detach().double().numpy()  # type: ignore[attr-defined]
    return array
