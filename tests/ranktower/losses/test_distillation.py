from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from ranktower.losses import distillation_loss


def equation_14(z: Sequence[float], p: Sequence[float]) -> float:
    total = sum(math.exp(score) for score in z)
    return -sum(weight * math.log(math.exp(score) / total) for score, weight in zip(z, p, strict=True))


def normalized(z: Sequence[float], p: Sequence[float]) -> float:
    return equation_14(z, [weight / sum(p) for weight in p]) if sum(p) else 0.0


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(
    seed: int, normalize: bool, make_lists: Callable[..., tuple], expected_mean: Callable[..., float]
) -> None:
    scores, p, mask = make_lists(seed, soft_labels=True)
    value = normalized if normalize else equation_14
    expected = expected_mean(scores, p, mask, value, lambda z, _: bool(z))
    loss = distillation_loss(scores, p, mask=mask, normalize=normalize)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_list_whose_teacher_says_zero_counts() -> None:
    # METHOD: a list counts if it has a valid item. 0 for the second list, so the mean is half of log 2 * (0.5 + 0.5).
    p = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    for normalize in (False, True):
        value = distillation_loss(torch.zeros(2, 2), p, mask=mask, normalize=normalize)
        assert value.item() == pytest.approx(math.log(2) / 2)


def test_normalizing_removes_the_teachers_scale() -> None:
    scores, p = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.1, 0.3, 0.05]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    plain = distillation_loss(scores, p, mask=mask)
    assert distillation_loss(scores, 2 * p, mask=mask).item() == pytest.approx(2 * plain.item())
    twice = distillation_loss(scores, 2 * p, mask=mask, normalize=True)
    assert twice.item() == pytest.approx(distillation_loss(scores, p, mask=mask, normalize=True).item())
    assert twice.item() == pytest.approx(plain.item() / 0.45)


def test_least_where_the_softmax_equals_the_teacher() -> None:
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    scores = p.log().requires_grad_()
    value = distillation_loss(scores, p, mask=torch.ones(1, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == pytest.approx(-sum(x * math.log(x) for x in (0.2, 0.5, 0.3)))
    torch.testing.assert_close(scores.grad, torch.zeros(1, 3, dtype=torch.float64), rtol=0, atol=1e-15)
