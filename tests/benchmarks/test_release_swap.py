from __future__ import annotations

import numpy as np
from release_swap import swap_figures

from offline.bench.answers import Answers


def answers(latency_ms: float, *releases: bytes) -> Answers:
    """Ten a second; no answer where the release is empty."""
    count = len(releases)
    status = np.array([200 if release else 0 for release in releases], dtype=np.int16)
    latencies = np.full(count, latency_ms)
    return Answers(np.arange(count) / 10, np.zeros(count), latencies, status, np.zeros(count, bool), np.array(releases))


def test_both_parts_of_a_run_stand_beside_each_other() -> None:
    found = swap_figures(answers(2.0, *[b"a"] * 4), answers(5.0, b"a", b"b", b"b", b"", b"a"), 0.4, 0.5)
    assert (found["p99_during_to_before"], found["max_during_to_p99_before"]) == (2.5, 2.5)
    assert found["failed"] == 1
    assert found["answers_by_release"] == {"a": 2, "b": 2}
    assert found["num_changes_seen"] == 2
    assert (found["before"]["requests"], found["during"]["requests"]) == (4, 5)
