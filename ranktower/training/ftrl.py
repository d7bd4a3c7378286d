"""FTRL-Proximal (McMahan et al. 2013, "Ad click prediction: a view from the trenches", Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class FTRLProximal(torch.optim.Optimizer):
    """Follow the regularised leader, with a learning rate for each coordinate.

    With gradient g, and z and n at 0 in the beginning, each coordinate is updated to::

        sigma = (sqrt(n + g^2) - sqrt(n)) / alpha
        z    += g - sigma * w
        n    += g^2
        w     = 0 if |z| <= l1, else -(z - sign(z) * l1) / ((beta + sqrt(n)) / alpha + l2)

    The algorithm computes w from z and n when it predicts, here w is computed when they change, which is the same. It
    begins at w = 0; a parameter that begins elsewhere gets the z that stands for its value.

    ``beta`` is 1 in the paper, where a gradient is of one example. Where it is of a mean over a batch, sqrt(n) of a
    rare coordinate stays far below 1 and its rate close to alpha / beta: a smaller beta lets it adapt.
    """

    def __init__(
        self, params: ParamsT, *, lr: float = 0.01, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0
    ) -> None:
        """``lr`` is alpha.

        Raises:
            ValueError: ``lr`` or ``beta`` is not above 0, or ``l1`` or ``l2`` is negative.
        """
        # In this form, nan is refused as well.
        if not (lr > 0 and beta > 0 and l1 >= 0 and l2 >= 0):
            raise ValueError(f"FTRL needs lr, beta > 0 and l1, l2 >= 0, got lr={lr}, beta={beta}, l1={l1}, l2={l2}")
        super().__init__(params, {"lr": lr, "beta": beta, "l1": l1, "l2": l2})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, weights: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        alpha, beta, l1, l2 = (options[name] for name in ("lr", "beta", "l1", "l2"))
        state = self.state[weights]
        if not state:
            state["z"] = -(weights * (beta / alpha + l2) + weights.sign() * l1)
            state["n"] = torch.zeros_like(weights)
        z, n = state["z"], state["n"]
        root = n.sqrt()
        n.addcmul_(gradient, gradient)
        new_root = n.sqrt()
        z.add_(gradient - (new_root - root) / alpha * weights)
        # The soft threshold: z moved towards 0 by l1, and 0 where it is nearer than that.
        shrunk = z.sign() * (z.abs() - l1).clamp_min(0)
        weights.copy_(-shrunk / ((beta + new_root) / alpha + l2))
