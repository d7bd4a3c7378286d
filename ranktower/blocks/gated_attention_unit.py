"""Gated Attention Unit (paper §3.4.2, equations 7 to 12), cut where the query's side and the key's side meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["silu", "relu", "gelu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}


class GatedAttentionUnit(nn.Module):
    """``O = (U * softmax(Q K^T / sqrt(A)) V) W_o``.

    ``Q = phi(X_q W_q)`` and ``U = sigmoid(X_q W_u)`` depend on the query's side alone, ``K = phi(X_k W_k)`` and
    ``V = phi(X_v W_v)`` on the other side alone. So they are separate methods: all four can be computed once a user
    or item and stored, and only ``attend`` is left for a pair. phi is SiLU by default. No layer has a bias, as in the
    paper's formulas.
    """

    def __init__(self, width: int, attention_width: int, *, activation: Activation = "silu") -> None:
        super().__init__()
        self.query = nn.Linear(width, attention_width, bias=False)
        self.key = nn.Linear(width, attention_width, bias=False)
        self.value = nn.Linear(width, attention_width, bias=False)
        self.gate = nn.Linear(width, attention_width, bias=False)
        self.output = nn.Linear(attention_width, width, bias=False)
        self.scale = attention_width**-0.5
        self.activation = _ACTIVATIONS[activation]

    def project_query(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """``X_q [..., H, D]`` to ``Q`` and ``U``, each ``[..., H, A]`` (equations 7 and 10)."""
        return self.activation(self.query(embedding)), torch.sigmoid(self.gate(embedding))

    def project_key_value(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """``X_k = X_v [..., H, D]`` to ``K`` and ``V``, each ``[..., H, A]`` (equations 8 and 9)."""
        return self.activation(self.key(embedding)), self.activation(self.value(embedding))

    def gated_output(self, attended: Tensor, gate: Tensor) -> Tensor:
        """``(U * A V) W_o`` (equation 11): ``A V`` and ``U``, each ``[..., H, A]``, to ``[..., H, D]``."""
        output: Tensor = self.output(gate * attended)
        return output
