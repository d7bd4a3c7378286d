"""SoftSort loss, the fine-grained ranking loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses.lists import clean_lists, longest, mean_over_lists


def softsort_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    mask: Tensor,
    power: float = 2.0,
    label_tau: float = 1.0,
    score_tau: float = 1.0,
) -> Tensor:
    """Equations (15) and (16): ``-sum_rc P(y)_rc log P(z)_rc`` over the real rows and columns of a list.

    ``P(s) = softmax(-|sort_desc(s) 1^T - 1 s^T|^power / tau)`` row by row: row r is a distribution over the items,
    peaked at the r-th largest (Prillo and Eisenschlos 2020, "SoftSort"). ``power`` 2 is the squared distance of the
    paper's experiments; the two temperatures are separate because labels and logits differ in scale. A list counts if
    it has a valid item. Finite for |z| up to 1e4 with ``power`` up to 8. Shapes, masking and reduction: ``ListLoss``.

    Raises:
        ConfigError: ``power`` below 1 (its gradient is infinite between equal scores) or a tau that is not positive.
    """
    check_options(power, label_tau, score_tau)
    z, y = clean_lists(scores, labels, mask)
    # Columns may stand in any order common to y and z. By descending score the rows and columns of P(z) coincide, and
    # the masked items come last, where they are cut off: the tables [B, n, n] are as wide as the longest real list.
    order = z.detach().masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)[:, : longest(mask)]
    real = mask.gather(-1, order)
    z = z.gather(-1, order) / score_tau ** (1 / power)
    y = y.gather(-1, order) / label_tau ** (1 / power)
    sorted_y = y.masked_fill(~real, -torch.inf).sort(dim=-1, descending=True).values

    # -inf in the columns that are padding; a list without a real item has no column left, and no row that is read.
    padding = torch.zeros_like(z).masked_fill_(~real, -torch.inf)

    target = (padding.unsqueeze(-2) - _distance(sorted_y, y, power)).exp_()
    target *= (real / target.sum(dim=-1).masked_fill(~real, 1.0)).unsqueeze(-1)
    distance = _distance(z, z, power)
    # Every real row of P(z) holds its own item at distance exactly 0, so its sum of exponentials is at least 1 and its
    # logarithm is log_softmax's normaliser, no maximum to subtract: -log P(z)_rc = distance_rc + log(row_sum_r).
    row_sums = (padding.unsqueeze(-2) - distance).exp_().sum(dim=-1).masked_fill(~real, 1.0)
    values = (target * distance).sum(dim=(-2, -1)) + row_sums.log().sum(dim=-1)
    return mean_over_lists(values, mask.any(dim=-1))


def _distance(rows: Tensor, columns: Tensor, power: float) -> Tensor:
    """``|rows_r - columns_c|^power``, [B, n, n]."""
    difference = rows.unsqueeze(-1) - columns.unsqueeze(-2)
    return difference.square() if power == 2 else difference.abs().pow(power)


def check_options(power: float, label_tau: float, score_tau: float) -> None:
    """Raises ConfigError as ``softsort_loss`` says, for a configuration that is read long before the first step."""
    if not power >= 1:
        raise ConfigError(f"softsort power must be at least 1, got {power}")
    for name, tau in (("label_tau", label_tau), ("score_tau", score_tau)):
        if not tau > 0:
            raise ConfigError(f"softsort {name} must be positive, got {tau}")
