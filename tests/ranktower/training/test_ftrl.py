from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ranktower.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from ranktower.training.ftrl import FTRLProximal

Vector = NDArray[np.float64]


class PublishedUpdate:
    """Algorithm 1 of McMahan et al. 2013 as it is printed, coordinate by coordinate: weights are made to predict."""

    def __init__(self, size: int, *, alpha: float, beta: float, l1: float, l2: float) -> None:
        self.alpha, self.beta, self.l1, self.l2 = alpha, beta, l1, l2
        self.z, self.n = [0.0] * size, [0.0] * size

    def weight(self, i: int) -> float:
        if abs(self.z[i]) <= self.l1:
            return 0.0
        rate = 1 / ((self.beta + self.n[i] ** 0.5) / self.alpha + self.l2)
        return -rate * (self.z[i] - (1 if self.z[i] > 0 else -1) * self.l1)

    def weights(self) -> Vector:
        return np.array([self.weight(i) for i in range(len(self.z))])

    def update(self, gradient: Vector) -> None:
        for i, g in enumerate(gradient.tolist()):
            w = self.weight(i)
            sigma = ((self.n[i] + g * g) ** 0.5 - self.n[i] ** 0.5) / self.alpha
            self.z[i] += g - sigma * w
            self.n[i] += g * g


def examples(size: int, count: int) -> tuple[Vector, Vector]:
    """Sparse features of -1, 0 and 1, of which the first five alone decide the label."""
    generator = np.random.default_rng(1)
    features = generator.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=(count, size))
    logits = features[:, :5] @ np.array([3.0, -3.0, 2.0, -2.0, 1.5])
    return features, (generator.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.01, "beta": 1.0, "l1": 0.0, "l2": 0.0},
        {"alpha": 0.1, "beta": 1.0, "l1": 1.5, "l2": 0.0},
        {"alpha": 0.5, "beta": 0.2, "l1": 0.3, "l2": 2.0},
    ],
)
def test_every_step_equals_the_published_update(options: dict[str, float]) -> None:
    reference = PublishedUpdate(20, **options)
    weights = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = FTRLProximal([weights], lr=options["alpha"], beta=options["beta"], l1=options["l1"], l2=options["l2"])
    for x, y in zip(*examples(20, 300), strict=True):
        w = reference.weights()
        reference.update((1 / (1 + np.exp(-(x @ w))) - y) * x)

        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(weights @ torch.from_numpy(x), torch.tensor(y)).backward()
        optimizer.step()
        np.testing.assert_allclose(weights.detach().numpy(), reference.weights(), rtol=1e-9, atol=1e-12)
    state = optimizer.state[weights]
    np.testing.assert_allclose(state["z"].numpy(), reference.z, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state["n"].numpy(), reference.n, rtol=1e-12)
    assert (weights != 0).any()


def trained(*, l1: float) -> Tensor:
    weights = nn.Parameter(torch.zeros(60, dtype=torch.float64))
    optimizer = FTRLProximal([weights], lr=0.1, l1=l1)
    for x, y in zip(*examples(60, 400), strict=True):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(weights @ torch.from_numpy(x), torch.tensor(y)).backward()
        optimizer.step()
    return weights.detach()


def test_l1_leaves_the_weights_that_matter() -> None:
    dense, sparse = trained(l1=0.0), trained(l1=12.0)
    assert (dense != 0).all()
    assert (sparse[:4] != 0).all()
    assert (sparse[5:] == 0).double().mean() > 0.8


def test_a_coordinate_without_a_gradient_stays_as_it_is() -> None:
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(8))
    optimizer = FTRLProximal([weights], lr=0.1, l1=0.5, l2=0.1)
    weights.grad = torch.randn(8)
    optimizer.step()
    before = [tensor.clone() for tensor in (weights, *optimizer.state[weights].values())]
    weights.grad = torch.tensor([0.0] * 4 + [1.0] * 4)
    optimizer.step()
    for now, then in zip((weights, *optimizer.state[weights].values()), before, strict=True):
        assert torch.equal(now[:4], then[:4])
        assert (now[4:] != then[4:]).all()


def test_a_parameter_that_does_not_begin_at_0_begins_where_it_is() -> None:
    start = torch.tensor([0.3, -0.2, 0.0, 2.0], dtype=torch.float64)
    weights = nn.Parameter(start.clone())
    optimizer = FTRLProximal([weights], lr=0.05, l1=0.7, l2=0.3)
    weights.grad = torch.zeros(4, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(weights.detach(), start, rtol=1e-12, atol=0)


def test_a_parameter_without_a_gradient_is_left_out_and_the_closure_is_called() -> None:
    used, unused = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimizer = FTRLProximal([used, unused])

    def closure() -> float:
        optimizer.zero_grad()
        loss = (used - 1).square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert (used > 0).all()
    assert torch.equal(unused, torch.ones(3))
    assert unused not in optimizer.state


def test_a_checkpoint_resumes_to_the_same_bit(tmp_path: Path) -> None:
    def build() -> tuple[nn.Linear, FTRLProximal]:
        torch.manual_seed(4)
        model = nn.Linear(20, 1)
        return model, FTRLProximal(model.parameters(), lr=0.1, l1=0.2)

    def train(model: nn.Linear, optimizer: FTRLProximal, first: int, last: int) -> None:
        features, labels = (torch.from_numpy(array).float() for array in examples(20, 60))
        for step in range(first, last):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(features[step])[0], labels[step]).backward()
            optimizer.step()

    whole, killed, resumed = build(), build(), build()
    train(*whole, 0, 60)
    train(*killed, 0, 25)
    progress = Progress(config_digest="c", data_id="d")
    save_checkpoint(tmp_path / "checkpoint.safetensors", killed[0], {}, killed[1], progress)
    load_checkpoint(tmp_path / "checkpoint.safetensors", *resumed, config_digest="c", data_id="d")
    train(*resumed, 25, 60)
    for ours, reference in zip(resumed[0].parameters(), whole[0].parameters(), strict=True):
        assert torch.equal(ours, reference)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": math.nan}, {"beta": 0.0}, {"l1": -1.0}, {"l2": -0.5}])
def test_an_option_out_of_range_is_refused(options: dict[str, float]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match=rf"FTRL needs .*{key}={value}"):
        FTRLProximal([nn.Parameter(torch.zeros(1))], **options)
