"""The one signature of the losses."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ListLoss(Protocol):
    """``(scores, labels, *, mask)`` to one number; every loss of the package but the hybrid one can be called so.

    ``scores`` [B, L] are logits z of any floating dtype (half precision is computed in float32), ``labels`` [B, L] are
    non-negative and are constants (teacher scores p in [0, 1] for the distillation losses), ``mask`` [B, L] is boolean,
    True = a real item. What stands in a masked place, NaN and infinity included, changes neither value nor gradient; a
    NaN score in a real place of a list that counts makes the result NaN. The result is the mean over the lists that
    count, a scalar; where no list counts it is 0 and can still be differentiated. Each loss says in its docstring which
    lists count.
    """

    def __call__(self, scores: Tensor, labels: Tensor, /, *, mask: Tensor) -> Tensor: ...
