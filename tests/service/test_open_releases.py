"""Garbage collection beside a running server: what it has open stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ranktower.registry import Registry
from ranktower.retention import collect

MODEL = "demo"


def test_what_a_server_has_open_is_not_collected(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    first, second, third, latest = (build_release(tmp_path, seed=seed, num_items=50) for seed in range(4))
    registry = Registry(tmp_path)
    first.promote()
    # It looks at the pointer once and not again for ten minutes: what it serves is soon named by nothing.
    server = start_server(tmp_path, "--workers", "2", RELEASE__POLL_MS="600000")
    server.wait_until(lambda: sum(line["message"] == "release served" for line in server.lines()) == 2, "both serving")
    for built in (second, third, latest):
        built.promote()
    collected = collect(registry, MODEL, keep=1)
    assert [removed.name for removed in collected.removed] == [second.release]
    assert collected.held == (first.release,)
    answer = server.score("user-1", list(range(50)))
    np.testing.assert_allclose(answer.json()["scores"], first.scores("user-1", list(range(50))), atol=4e-5)
    assert server.stop() == 0
    assert [removed.name for removed in collect(registry, MODEL, keep=1).removed] == [first.release]
    assert registry.releases(MODEL) == [third.release, latest.release]


def test_a_release_that_is_replaced_is_let_go_of(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = [build_release(tmp_path, seed=seed, num_items=50) for seed in range(4)]
    built[0].promote()
    server = start_server(tmp_path)
    for one in built:
        one.promote()
        server.wait_ready(one.release)
    # The one before the current stays open for a roll back, and is named by the pointer too.
    server.wait_until(lambda: len(collect(Registry(tmp_path), MODEL, keep=1).held) == 0, "let go")
    assert Registry(tmp_path).releases(MODEL) == [built[2].release, built[3].release]
    Registry(tmp_path).rollback(MODEL)
    server.wait_ready(built[2].release)
    assert server.stop() == 0
