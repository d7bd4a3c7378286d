"""The optimiser of a configuration."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import nn

from ranktower.training.config import OptimizerConfig
from ranktower.training.ftrl import FTRLProximal

# Parameters of a side's tower, by the first part of their names; all others work on pairs.
_TOWERS = ("user_tower.", "item_tower.")


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, learning_rate: float) -> torch.optim.Optimizer:
    """Adam (AdamW where ``weight_decay`` is above 0) or FTRL; the towers have one learning rate, the pair part another.

    Only matrices decay: a bias, a norm's scale, a temperature or an uncertainty has no reason to be near 0.
    """
    parameters: defaultdict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        rate = learning_rate * (1.0 if name.startswith(_TOWERS) else config.interaction_rate)
        parameters[rate, parameter.dim() > 1].append(parameter)
    if config.name == "ftrl":
        groups = [{"params": own, "lr": rate} for (rate, _), own in parameters.items()]
        return FTRLProximal(groups, beta=config.beta, l1=config.l1, l2=config.l2)
    return torch.optim.AdamW(
        [
            {"params": own, "lr": rate, "weight_decay": config.weight_decay if is_matrix else 0.0}
            for (rate, is_matrix), own in parameters.items()
        ],
        fused=True,
    )


def rate_share(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The share of its learning rate that a step takes, by its number alone, so that a resumed run takes the same.

    Args:
        config: its ``schedule`` and ``warmup_steps``.
        step: from 1 to ``num_steps``.
        num_steps: of the whole run.
    """
    share = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        share *= 0.5 * (1 + math.cos(math.pi * (step - 1) / num_steps))
    return share
