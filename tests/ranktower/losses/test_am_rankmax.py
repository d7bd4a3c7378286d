from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import am_rankmax_loss


def equation_19(
    z: Sequence[float], y: Sequence[float], alpha: float = 2.0, beta: float | None = None, power: float = 1.0
) -> float:
    total = 0.0
    for j in range(len(z)):
        if y[j] <= 0:
            continue
        inner = 1.0
        for i in range(len(z)):
            if y[i] < y[j]:
                delta = 1.0 if beta is None else beta * abs(y[i] - y[j]) ** power
                margin = (alpha if y[i] == 0 else 0.0) + delta
                inner += max(z[i] - z[j] + margin, 0.0)
        total += math.log(inner)
    return total


@pytest.mark.parametrize("options", [{}, {"alpha": 5.0}, {"alpha": 0.0}, {"beta": 0.7}, {"beta": 0.3, "power": 2.0}])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int,
    options: dict[str, float],
    make_lists: Callable[..., tuple],
    expected_mean: Callable[..., float],
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(
        scores, labels, mask, lambda z, y: equation_19(z, y, **options), lambda z, y: any(label > 0 for label in y)
    )
    assert am_rankmax_loss(scores, labels, mask=mask, **options).item() == pytest.approx(expected, rel=1e-12)


def test_labels_below_zero_are_below_every_target(
    make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(4)
    expected = expected_mean(scores, labels - 1, mask, equation_19, lambda z, y: any(label > 0 for label in y))
    assert am_rankmax_loss(scores, labels - 1, mask=mask).item() == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    # Labels 2, 1, 0; all scores equal; alpha 3. j = 0: 1 + 1 + (3 + 1) = 6. j = 1: 1 + (3 + 1) = 5.
    labels = torch.tensor([[2.0, 1.0, 0.0]])
    value = am_rankmax_loss(torch.zeros(1, 3), labels, mask=torch.ones(1, 3, dtype=torch.bool), alpha=3.0)
    assert value.item() == pytest.approx(math.log(6) + math.log(5))


def test_zero_on_a_list_ranked_beyond_the_margins() -> None:
    scores, labels = torch.tensor([[9.0, 5.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    value = am_rankmax_loss(scores, labels, mask=torch.ones(1, 3, dtype=torch.bool), alpha=4.0)
    assert value.item() == 0.0


def test_alpha_widens_the_margin_below_negatives_only() -> None:
    scores, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    # Between two positives the margin is delta = 1, and 2 is beyond it, whatever alpha is.
    assert am_rankmax_loss(scores, labels, mask=mask, alpha=5.0).item() == 0.0
    assert am_rankmax_loss(scores, labels - 1, mask=mask, alpha=5.0).item() == pytest.approx(math.log(1 - 2 + 5 + 1))


def test_equal_positive_labels_are_not_compared() -> None:
    labels = torch.ones(1, 5)
    value = am_rankmax_loss(torch.randn(1, 5), labels, mask=torch.ones(1, 5, dtype=torch.bool))
    assert value.item() == 0.0


def test_a_list_of_equal_positives_counts_one_of_negatives_does_not() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    value = am_rankmax_loss(torch.zeros(3, 2), labels, mask=torch.ones(3, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(math.log(1 + 2 + 1) / 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": -1.0}, "am_rankmax alpha must not be negative, got -1.0"),
        ({"beta": -0.5}, "am_rankmax beta must not be negative, got -0.5"),
        ({"beta": 1.0, "power": 0.0}, "am_rankmax power must be positive, got 0.0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        am_rankmax_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask=torch.ones(1, 2, dtype=torch.bool), **options)
