"""What the benchmark of keys times is what a request with a valid key goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import auth
import pytest
from figures import keys
from prometheus_client import CollectorRegistry


def test_both_keys_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        results = {name: call() for name, call in calls.items()}
        assert results["find"].name == "client-0"
        return {"hash": 1.0, "find": 2.0, "answer": 10.0, "answer, key": 14.0, "answer, limited key": 19.0} | {
            "answer, headers": 16.0
        }

    registry = CollectorRegistry()
    monkeypatch.setattr(auth, "_timed", timed)
    monkeypatch.setattr(auth, "CollectorRegistry", lambda: registry)
    found = auth.measured()
    assert found == {"hash": 1.0, "find": 2.0, "key": 4.0, "limit": 5.0, "headers": 6.0}
    admitted = {
        name: registry.get_sample_value("ranktower_auth_requests_total", {"key": name})
        for name in ("client-0", "client-1", "client-2")
    }
    assert admitted == {"client-0": 1.0, "client-1": 1.0, "client-2": None}
    assert registry.get_sample_value("ranktower_rate_limited_total", {"key": "client-1"}) == 0


def test_the_page_tells_all_of_them() -> None:
    one = {"hash": 0.1, "find": 0.2, "key": 0.3, "limit": 0.4, "headers": 0.5}
    several = {"hash": 0.1, "find": 0.2, "key": 0.6, "limit": 0.7, "headers": 0.5}
    place = {"date": "2026-01-02", "command": "python benchmarks/auth.py"}
    machine = {"machine": {"cpu": "a processor", "num_cores": 2}}
    us = {"one process": one, "one of several workers": several}
    told = keys(place | machine | {"num_keys": 7, "us": us})
    assert [number for number in told.replace("µs", "").split() if number.startswith("0.")] == [
        "0.2", "0.1", "0.3", "0.6", "0.4", "0.7", "0.5",
    ]  # fmt: skip
    assert "(7 keys; 2026-01-02" in told
