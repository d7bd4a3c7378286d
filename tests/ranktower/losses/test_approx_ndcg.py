from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.errors import ConfigError
from ranktower.losses import approx_ndcg_loss


def one_minus_approx_ndcg(
    z: Sequence[float], y: Sequence[float], temperature: float = 0.1, gain: str = "linear"
) -> float:
    gains = [label if gain == "linear" else 2**label - 1 for label in y]
    n, dcg = len(z), 0.0
    for i in range(n):
        rank = 1.0
        for j in range(n):
            if j != i:
                rank += 1 / (1 + math.exp((z[i] - z[j]) / temperature))
        dcg += gains[i] / math.log2(1 + rank)
    ideal = sum(g / math.log2(1 + rank) for rank, g in enumerate(sorted(gains, reverse=True), start=1))
    return 1 - dcg / ideal


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.5, "gain": "exponential"}])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(
    seed: int,
    options: dict[str, float | str],
    make_lists: Callable[..., tuple],
    expected_mean: Callable[..., float],
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(
        scores,
        labels,
        mask,
        lambda z, y: one_minus_approx_ndcg(z, y, **options),
        lambda z, y: any(label > 0 for label in y),
    )
    assert approx_ndcg_loss(scores, labels, mask=mask, **options).item() == pytest.approx(expected, rel=1e-11)


def test_far_apart_scores_give_the_exact_ndcg() -> None:
    # Every order of three items with labels 2, 1, 0, the scores far apart against the temperature: no approximation is
    # left.
    labels = torch.tensor([[2.0, 1.0, 0.0]])
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    for ranks in itertools.permutations((1, 2, 3)):
        dcg = 2 / math.log2(1 + ranks[0]) + 1 / math.log2(1 + ranks[1])
        scores = -100 * torch.tensor([ranks], dtype=torch.float32)
        value = approx_ndcg_loss(scores, labels, mask=torch.ones(1, 3, dtype=torch.bool))
        assert value.item() == pytest.approx(1 - dcg / ideal, abs=1e-6)


def test_lists_without_a_positive_do_not_count() -> None:
    scores, labels = torch.tensor([[0.0, 50.0], [3.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value = approx_ndcg_loss(scores, labels, mask=torch.ones(2, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(1 - 1 / math.log2(3), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, "approx_ndcg temperature must be positive, got 0.0"),
        ({"gain": "square"}, "approx_ndcg gain must be 'linear' or 'exponential', got 'square'"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, float | str], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        approx_ndcg_loss(torch.zeros(1, 2), torch.zeros(1, 2), mask=torch.ones(1, 2, dtype=torch.bool), **options)
