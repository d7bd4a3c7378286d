from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from ranktower.losses import contrastive_loss


def info_nce(z: Sequence[float], y: Sequence[float]) -> float:
    positives = [score for score, label in zip(z, y, strict=True) if label > 0]
    total = sum(math.exp(score) for score in z)
    return -sum(math.log(math.exp(score) / total) for score in positives) / len(positives)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, labels, mask = make_lists(seed)
    expected = expected_mean(scores, labels, mask, info_nce, lambda _, y: any(label > 0 for label in y))
    assert contrastive_loss(scores, labels, mask=mask).item() == pytest.approx(expected, rel=1e-12)


def test_how_positive_a_label_is_does_not_matter(make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(2)
    assert contrastive_loss(scores, labels.sign(), mask=mask) == contrastive_loss(scores, labels, mask=mask)
