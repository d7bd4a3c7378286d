from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import relaxed_recall_loss


def relaxed_recall(z: Sequence[float], y: Sequence[float], m: int, k: int, temperature: float) -> float:
    """The formula with its sums as loops; w by drawing every order of the ties."""
    n = len(z)
    m, k = min(m, n), min(k, n)
    kept = [0.0] * n
    for r in range(1, m + 1):
        logits = [((n + 1 - 2 * r) * x - sum(abs(x - other) for other in z)) / (temperature * n) for x in z]
        total = sum(math.exp(logit) for logit in logits)
        kept = [mass + math.exp(logit) / total / m for mass, logit in zip(kept, logits, strict=True)]
    weights = share_among_the_best(y, k)
    return -sum(w * math.log(mass) for w, mass in zip(weights, kept, strict=True)) / sum(weights)


def share_among_the_best(y: Sequence[float], k: int) -> list[float]:
    """How much of each item of a label above 0 is in the k best, when equal labels are put in order at random."""
    shares = []
    for label in y:
        above, equal = sum(other > label for other in y), sum(other == label for other in y)
        places_left = min(max(k - above, 0), equal)
        shares.append(places_left / equal if label > 0 else 0.0)
    return shares


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_kept": 3, "num_relevant": 2},
    {"num_kept": 2, "num_relevant": 4, "temperature": 0.3},
    {"num_kept": 1, "num_relevant": 1, "temperature": 3.0},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int, options: dict[str, Any], make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    m, k, temperature = options.get("num_kept", 30), options.get("num_relevant", 20), options.get("temperature", 1.0)
    expected = expected_mean(
        scores, labels, mask, lambda z, y: relaxed_recall(z, y, m, k, temperature), lambda _, y: any(y)
    )
    assert relaxed_recall_loss(scores, labels, mask=mask, **options).item() == pytest.approx(expected, rel=1e-10)


def test_ties_share_the_places_that_are_left() -> None:
    """The closed form of the reference above, against the mean over all orders of the ties."""
    y, k = [2.0, 1.0, 1.0, 1.0, 0.0], 2
    orders = [order for order in permutations(range(5)) if all(y[a] >= y[b] for a, b in pairwise(order))]
    drawn = [sum(item in order[:k] for order in orders) / len(orders) for item in range(5)]
    assert share_among_the_best(y, k) == pytest.approx(drawn)


def test_nears_the_log_of_m_where_the_best_are_kept() -> None:
    # A sharp P(z) puts each of the first m items wholly among them, each with 1/m: -log(1/m), whatever their order.
    mask = torch.ones(1, 5, dtype=torch.bool)
    labels = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    for scores in ([3e4, 2e4, 1e4, 0.0, -1e4], [1e4, 3e4, 2e4, -1e4, 0.0]):
        value = relaxed_recall_loss(torch.tensor([scores]), labels, mask=mask, num_kept=3, num_relevant=3)
        assert value.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_kept": 0}, "relaxed_recall num_kept must be at least 1, got 0"),
        ({"num_relevant": -3}, "relaxed_recall num_relevant must be at least 1, got -3"),
        ({"temperature": -1.0}, "neural_sort temperature must be positive, got -1.0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        relaxed_recall_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask=torch.ones(1, 2, dtype=torch.bool), **options)
