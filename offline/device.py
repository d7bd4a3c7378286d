"""Where a job computes: its option ``--device``."""

from __future__ import annotations

import torch

from ranktower.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of ``--device``: auto, cpu or cuda; ConfigError for another name or a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in {"cpu", "cuda"}:
        raise ConfigError(f"--device: must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: 'cuda' was asked for and torch sees no GPU")
    return torch.device(name)
