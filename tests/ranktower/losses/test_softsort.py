from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import softsort_loss


def relaxed_permutation(s: Sequence[float], power: float, tau: float) -> list[list[float]]:
    """Equation (15), row by row: softmax of the negative distances to the r-th largest element."""
    rows = []
    for largest in sorted(s, reverse=True):
        weights = [math.exp(-(abs(largest - other) ** power) / tau) for other in s]
        rows.append([weight / sum(weights) for weight in weights])
    return rows


def equation_16(
    z: Sequence[float], y: Sequence[float], power: float = 2.0, label_tau: float = 1.0, score_tau: float = 1.0
) -> float:
    of_labels, of_scores = relaxed_permutation(y, power, label_tau), relaxed_permutation(z, power, score_tau)
    n = len(z)
    return -sum(of_labels[r][c] * math.log(of_scores[r][c]) for r in range(n) for c in range(n))


@pytest.mark.parametrize(
    "options",
    [{}, {"power": 1.0}, {"power": 3.0, "score_tau": 8.0}, {"label_tau": 0.25}, {"label_tau": 2.0, "score_tau": 5.0}],
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int,
    options: dict[str, float],
    make_lists: Callable[..., tuple],
    expected_mean: Callable[..., float],
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, lambda z, y: equation_16(z, y, **options), lambda z, _: bool(z))
    assert softsort_loss(scores, labels, mask=mask, **options).item() == pytest.approx(expected, rel=1e-11)


def test_two_items_by_hand() -> None:
    # y = (1, 0): P(y) = [[a, b], [b, a]], a = 1 / (1 + e^-1), b = 1 - a. z = (2, 0): P(z) the same with e^-4.
    # -sum P(y) log P(z) = 2 (log(1 + e^-4) + 4 b).
    b = math.exp(-1) / (1 + math.exp(-1))
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = softsort_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]), mask=mask)
    assert value.item() == pytest.approx(2 * (math.log1p(math.exp(-4)) + 4 * b), rel=1e-6)
    # The other way round, the large entries of P(y) meet the small ones of P(z).
    swapped = softsort_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), mask=mask)
    assert swapped.item() == pytest.approx(2 * (math.log1p(math.exp(-4)) + 4 * (1 - b)), rel=1e-6)


def test_extremes_keep_their_value() -> None:
    # As above, the other way round: the distance is (2e4)^2, so 2 a (2e4)^2. The log of a softmax would be -inf here.
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = softsort_loss(torch.tensor([[-1e4, 1e4]]), torch.tensor([[1.0, 0.0]]), mask=mask)
    assert value.item() == pytest.approx(8e8 / (1 + math.exp(-1)), rel=1e-6)


def test_a_constant_shift_of_scores_or_labels_changes_nothing(make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(3)
    value = softsort_loss(scores, labels, mask=mask).item()
    assert softsort_loss(scores + 5, labels, mask=mask).item() == pytest.approx(value)
    assert softsort_loss(scores, labels + 1, mask=mask).item() == pytest.approx(value)
    assert softsort_loss(scores, labels - 2, mask=mask).item() == pytest.approx(value)


def test_scores_that_equal_the_labels_are_a_minimum() -> None:
    # Cross entropy is least where the distributions agree, and P(z) = P(y) for z = y.
    labels = torch.tensor([[3.0, 1.5, 0.0, 0.7]], dtype=torch.float64)
    scores = labels.clone().requires_grad_()
    softsort_loss(scores, labels, mask=torch.ones(1, 4, dtype=torch.bool)).backward()
    torch.testing.assert_close(scores.grad, torch.zeros(1, 4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_equal_labels_without_a_positive_count() -> None:
    # All equal labels: every row of P(y) is uniform; all equal scores: so is P(z). n rows of log n.
    mask = torch.ones(1, 4, dtype=torch.bool)
    value = softsort_loss(torch.zeros(1, 4), torch.zeros(1, 4), mask=mask)
    assert value.item() == pytest.approx(4 * math.log(4))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"power": 0.5}, "softsort power must be at least 1, got 0.5"),
        ({"power": float("nan")}, "softsort power must be at least 1, got nan"),
        ({"label_tau": 0.0}, "softsort label_tau must be positive, got 0.0"),
        ({"score_tau": -1.0}, "softsort score_tau must be positive, got -1.0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        softsort_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask=torch.ones(1, 2, dtype=torch.bool), **options)
