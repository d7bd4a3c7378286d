"""The whole state of a training run in one safetensors file, so that a killed run goes on to the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ranktower.errors import ConfigError

_OPTIMIZER = "optimizer."


@dataclass
class Progress:
    """Where a run stands, all but its tensors.

    Attributes:
        config_digest, data_id, teacher_id: what the run trains on what, and whose soft labels took the place of the
            data's own (empty: nobody's); a checkpoint of another run is refused.
        epoch, batch: the next batch to train on.
        step: optimiser steps done.
        best_ndcg, best_step: best validation so far; ``stale`` counts the validations since. -1 as long as no user of
            the validation split had a positive.
        finished: the run stopped by itself.
        losses: mean loss parts since the last entry, a row every checkpoint interval.
        validations: one row a validation.
        pending: sums of the loss parts since the last row of ``losses``.
        seconds: time trained, over all its sessions.
    """

    config_digest: str
    data_id: str
    teacher_id: str = ""
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_ndcg: float = -1.0
    best_step: int = 0
    stale: int = 0
    finished: bool = False
    seconds: float = 0.0
    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)


def save_checkpoint(
    path: Path, model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write aside and rename: a kill in between leaves the last checkpoint whole."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for name, parameter in model.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER}{entry}.{name}"] = value
    save_tensors(path, tensors, asdict(progress))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    config_digest: str,
    data_id: str,
    teacher_id: str = "",
) -> tuple[Progress, dict[str, Tensor]]:
    """Put a checkpoint's state into ``model`` and ``optimizer``.

    Returns:
        The progress, and the best model's state so far.

    Raises:
        ConfigError: the file is damaged, or of a run with another configuration, other data or another teacher.
    """
    tensors, about = load_tensors(path)
    progress = Progress(**about)
    for key, wanted in (("config_digest", config_digest), ("data_id", data_id), ("teacher_id", teacher_id)):
        found = getattr(progress, key)
        if found != wanted:
            raise ConfigError(
                f"{path}: the run was started with {key} {found[:12] or 'none'}, not {wanted[:12] or 'none'}; "
                "give another --out, or remove the folder to start anew"
            )
    model.load_state_dict(_part(tensors, "model."))
    parameters = dict(model.named_parameters())
    for key, value in _part(tensors, _OPTIMIZER).items():
        entry, name = key.split(".", 1)
        parameter = parameters[name]
        optimizer.state[parameter][entry] = value.to(parameter.device)
    return progress, _part(tensors, "best.")


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """One safetensors file, written aside, flushed to disk and renamed; ``about`` is kept as JSON in its header.

    Equal content gives equal bytes: under one key, because the format keeps several in no order.
    """
    aside = path.with_name(f".{path.name}.part")
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(arrays, aside, {"about": json.dumps(about)})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def load_tensors(path: Path, *, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a safetensors file whose names begin with ``prefix``, and what ``save_tensors`` kept about the file.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        return {name: file.get_tensor(name) for name in names}, _about(file)


def load_about(path: Path) -> dict[str, Any]:
    """What ``save_tensors`` kept about a file, for which its tensors are not read.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return _about(file)


def _about(file: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((file.metadata() or {}).get("about", "{}"))
    return about


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except SafetensorError as error:
        raise ConfigError(f"{path}: damaged safetensors file ({error})") from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
