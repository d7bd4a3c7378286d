from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ranktower.blocks import MaximumSimilarity


def test_sums_each_user_sub_spaces_best_cosine_over_tau() -> None:
    torch.manual_seed(0)
    layer = MaximumSimilarity(initial_tau=0.4)
    users, items = torch.randn(5, 3, 8), torch.randn(5, 2, 8)
    scores = layer(users, items).detach().numpy()
    for n in range(5):
        total = 0.0
        for p in range(3):
            best = -math.inf
            for q in range(2):
                a, b = users[n, p].double().numpy(), items[n, q].double().numpy()
                best = max(best, float(a @ b / np.sqrt((a @ a) * (b @ b))))
            total += best
        assert scores[n] == pytest.approx(total / 0.4, abs=1e-5)


def test_all_negative_similarities_keep_their_maximum() -> None:
    users = torch.tensor([[[1.0, 0.0]]])
    items = torch.tensor([[[-1.0, 0.0], [-1.0, 1.0]]])
    assert MaximumSimilarity(initial_tau=1.0)(users, items).item() == pytest.approx(-math.sqrt(0.5), abs=1e-6)


@pytest.mark.parametrize("magnitude", [0.0, 1e-20, 1e-3, 1e4, 1e15])
def test_cosine_is_finite_with_a_finite_gradient(magnitude: float) -> None:
    vector = torch.full((4,), magnitude, requires_grad=True)
    value = MaximumSimilarity(initial_tau=1.0)(vector[None], torch.ones(1, 4))
    value.backward()
    assert vector.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(vector.grad).all()
    if magnitude == 0:
        assert value == 0
    if magnitude >= 1e-3:
        assert value.item() == pytest.approx(1.0, abs=1e-6)


def test_tau_is_learned_and_stays_positive() -> None:
    layer = MaximumSimilarity(initial_tau=0.01)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        layer.tau.backward()
        optimizer.step()
    assert 0 < layer.tau.item() < 0.01


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(4)
    layer = MaximumSimilarity().double()
    users = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    items = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (users, items))
