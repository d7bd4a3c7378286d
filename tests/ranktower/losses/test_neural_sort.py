from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import neural_sort_loss
from ranktower.losses.neural_sort import log_permutation, permutation


def relaxed_permutation(s: Sequence[float], temperature: float) -> list[list[float]]:
    """Grover et al., equation 5, row by row, at tau = temperature * n."""
    n = len(s)
    rows = []
    for r in range(1, n + 1):
        logits = [((n + 1 - 2 * r) * x - sum(abs(x - other) for other in s)) / (temperature * n) for x in s]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        rows.append([weight / sum(weights) for weight in weights])
    return rows


def shared_permutation(y: Sequence[float]) -> list[list[float]]:
    """Row r: the items that any sorting may put in place r, with its probability when ties fall at random."""
    return [[float(x == place) / y.count(place) for x in y] for place in sorted(y, reverse=True)]


def cross_entropy(z: Sequence[float], y: Sequence[float], temperature: float = 1.0) -> float:
    of_scores, of_labels = relaxed_permutation(z, temperature), shared_permutation(list(y))
    n = len(z)
    return -sum(of_labels[r][c] * math.log(of_scores[r][c]) for r in range(n) for c in range(n)) / n


@pytest.mark.parametrize("options", [{}, {"temperature": 0.3}, {"temperature": 4.0}])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int, options: dict[str, float], make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, lambda z, y: cross_entropy(z, y, **options), lambda z, _: bool(z))
    assert neural_sort_loss(scores, labels, mask=mask, **options).item() == pytest.approx(expected, rel=1e-10)


def test_rows_are_distributions_that_peak_in_sorted_order() -> None:
    z = torch.tensor([[0.3, -2.0, 5.0, 1.1]], dtype=torch.float64)
    relaxed = log_permutation(z, torch.ones(1, 4, dtype=torch.bool), 4, 1.0).exp()[0]
    torch.testing.assert_close(relaxed.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert relaxed.argmax(dim=1).tolist() == [2, 3, 0, 1]


def test_a_low_temperature_gives_the_permutation_itself() -> None:
    """The limit that the target takes, ties included: what NeuralSort itself makes of equal items."""
    y = torch.tensor([[2.0, 0.0, 1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    mask = torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(log_permutation(y, mask, 6, 1e-3).exp(), permutation(y, mask, 6), rtol=0, atol=1e-12)


def test_two_items_by_hand() -> None:
    # z = (2, 0), n = 2: both have |z_1 - z_2| = 2 and row 1 the logits ((3 - 2) z - 2) / 2 = (0, -1), row 2 (-2, -1).
    mask = torch.ones(1, 2, dtype=torch.bool)
    scores = torch.tensor([[2.0, 0.0]])
    right = neural_sort_loss(scores, torch.tensor([[1.0, 0.0]]), mask=mask)
    assert right.item() == pytest.approx(math.log1p(math.exp(-1)))
    wrong = neural_sort_loss(scores, torch.tensor([[0.0, 1.0]]), mask=mask)
    assert wrong.item() == pytest.approx(1 + math.log1p(math.exp(-1)))


def test_a_temperature_that_makes_no_sense_is_named() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"^neural_sort temperature must be positive, got 0\.0$"):
        neural_sort_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask=mask, temperature=0.0)
