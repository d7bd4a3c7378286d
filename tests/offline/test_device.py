from __future__ import annotations

import pytest
import torch

from offline.device import choose_device
from ranktower.errors import ConfigError


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto") == torch.device(expected)
    assert choose_device("cuda") == torch.device("cuda")


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device: 'cuda' was asked for and torch sees no GPU"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="--device: must be auto, cpu or cuda, got 'tpu'"):
        choose_device("tpu")
