"""The optimiser of a configuration."""

from __future__ import annotations

import torch
from torch import nn

from ranktower.training.config import OptimizerConfig
from ranktower.training.ftrl import FTRLProximal

# Parameters of a side's tower, by the first part of their names; all others work on pairs.
_TOWERS = ("user_tower.", "item_tower.")


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, learning_rate: float) -> torch.optim.Optimizer:
    """Adam (AdamW where ``weight_decay`` is above 0) or FTRL, one group for the towers and one for the pair part."""
    towers = [parameter for name, parameter in model.named_parameters() if name.startswith(_TOWERS)]
    pairs = [parameter for name, parameter in model.named_parameters() if not name.startswith(_TOWERS)]
    groups = [
        {"params": parameters, "lr": rate}
        for parameters, rate in ((towers, learning_rate), (pairs, learning_rate * config.interaction_rate))
        if parameters
    ]
    if config.name == "ftrl":
        return FTRLProximal(groups, l1=config.l1, l2=config.l2)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
