"""Second-order factorization machine (Rendle 2010, lemma 3.1), the FM part of DeepFM."""

from __future__ import annotations

from torch import Tensor


def pairwise_products(fields: Tensor) -> Tensor:
    """``sum_{i < j} <v_i, v_j>`` of ``[n, F, width]`` to ``[n]``.

    In time linear in F: half of the squared sum minus the sum of squares.
    """
    return 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=1)
