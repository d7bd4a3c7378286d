"""What a budget's run is counted as."""

from __future__ import annotations

import numpy as np
import pytest
from budgets import budget_figures

from offline.bench.answers import Answers

KINDS = {
    # status, latency in ms, degraded: how many of ten
    (200, 5.0, False): 3,
    (200, 5.0, True): 1,
    (200, 15.0, False): 1,
    (200, 15.0, True): 2,
    (429, 1.0, False): 2,
    (504, 10.0, False): 1,
}


def test_every_request_is_one_of_five() -> None:
    status, latency_ms, degraded = zip(*(kind for kind, count in KINDS.items() for _ in range(count)), strict=True)
    answers = Answers(
        np.arange(10) / 10,
        np.zeros(10),
        np.array(latency_ms),
        np.array(status, dtype=np.int16),
        np.array(degraded),
        np.full(10, b"r"),
    )
    found = budget_figures(answers, seconds=2.0, budget_ms=10.0)
    shares = {key: found[f"{key}_share"] for key in ("full_inside", "degraded_inside", "late", "shed", "out_of_time")}
    assert shares == {"full_inside": 0.3, "degraded_inside": 0.1, "late": 0.3, "shed": 0.2, "out_of_time": 0.1}
    assert sum(shares.values()) == pytest.approx(1)
    assert (found["inside_share"], found["goodput_per_s"], found["degraded"]) == (0.4, 2.0, 3)
