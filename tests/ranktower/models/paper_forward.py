"""The undecoupled RankTower forward, written from the paper's formulas one pair at a time, as the reference.

It shares nothing with the library but the parameters' names: no batching, no stored projections, float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def paper_score(state: Mapping[str, Matrix], x_user: Matrix, x_item: Matrix, *, heads: tuple[int, int]) -> float:
    """Logit of one pair from the concatenated field embeddings of its user and its item (equations 3 to 13)."""
    e_u = multi_embedding(state, "user_tower.network", x_user, heads[0])
    e_i = multi_embedding(state, "item_tower.network", x_item, heads[1])
    return paper_pair_score(state, e_u, e_i)


def paper_pair_score(state: Mapping[str, Matrix], e_u: Matrix, e_i: Matrix, *, activation: str = "silu") -> float:
    """Logit of one pair from the multi-embeddings ``[Hu, D]`` and ``[Hi, D]`` (equations 5 to 13)."""
    phi = ACTIVATIONS[activation]
    attended_u = layer_norm(e_u + gau(state, "cross_attention.user_branch", e_u, e_i, phi), state, "user_norm")
    attended_i = layer_norm(e_i + gau(state, "cross_attention.item_branch", e_i, e_u, phi), state, "item_norm")
    total = 0.0
    for p in range(len(attended_u)):
        total += max(cosine(attended_u[p], attended_i[q]) for q in range(len(attended_i)))
    return total / math.exp(float(state["similarity.log_tau"]))


def multi_embedding(state: Mapping[str, Matrix], name: str, x: Matrix, num_heads: int) -> Matrix:
    """Equations 3 and 4: ``[H, D]``."""
    out = mlp(state, f"{name}.network", x) * sigmoid(mlp(state, f"{name}.gate", x))
    return out.reshape(num_heads, -1)


def mlp(state: Mapping[str, Matrix], name: str, x: Matrix) -> Matrix:
    layers = sorted({int(key.split(".")[-2]) for key in state if key.startswith(f"{name}.layers.")})
    for position, layer in enumerate(layers):
        x = state[f"{name}.layers.{layer}.weight"] @ x + state[f"{name}.layers.{layer}.bias"]
        if position < len(layers) - 1:
            x = np.maximum(x, 0.0)
    return x


def gau(state: Mapping[str, Matrix], name: str, x_q: Matrix, x_kv: Matrix, phi: Callable[[Matrix], Matrix]) -> Matrix:
    """Equations 7 to 12: ``[H_q, D]``."""

    def weight(part: str) -> Matrix:
        return state[f"{name}.{part}.weight"].T

    v, u = phi(x_kv @ weight("value")), sigmoid(x_q @ weight("gate"))
    return (u * (attention(state, name, x_q, x_kv, phi) @ v)) @ weight("output")


def attention(
    state: Mapping[str, Matrix], name: str, x_q: Matrix, x_kv: Matrix, phi: Callable[[Matrix], Matrix]
) -> Matrix:
    """The weights of equation 12: ``[H_q, H_kv]``, each row sums to 1."""
    q, k = phi(x_q @ state[f"{name}.query.weight"].T), phi(x_kv @ state[f"{name}.key.weight"].T)
    logits = q @ k.T / math.sqrt(q.shape[1])
    weights: Matrix = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return weights


def layer_norm(x: Matrix, state: Mapping[str, Matrix], name: str) -> Matrix:
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    scale, shift = state[f"cross_attention.{name}.weight"], state[f"cross_attention.{name}.bias"]
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def cosine(a: Matrix, b: Matrix) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def sigmoid(x: Matrix) -> Matrix:
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Matrix) -> Matrix:
    return x * sigmoid(x)


def relu(x: Matrix) -> Matrix:
    return np.maximum(x, 0.0)


def gelu(x: Matrix) -> Matrix:
    """x times the probability that a standard normal variable is below x."""
    return x * np.vectorize(lambda value: 0.5 * (1.0 + math.erf(value / math.sqrt(2.0))))(x)


ACTIVATIONS: dict[str, Callable[[Matrix], Matrix]] = {"silu": silu, "relu": relu, "gelu": gelu}
