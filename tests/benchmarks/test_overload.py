"""What is made of an overload's answers, of the service's histogram of refusals and of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from overload import degraded_share, recovery_s, rss_mb, sampled_rss, shed_figures, shed_histogram

from offline.bench.answers import Answers
from service.metrics import Metrics

BUDGET_MS = 10.0


def after(*, late_s: float = 0.0, degraded_s: float = 0.0, seconds: float = 5.0) -> Answers:
    """100 requests a second from second 20 on; the first are late, or degraded, until so long after the start."""
    elapsed = np.arange(int(seconds * 100)) / 100
    latencies = np.where(elapsed < late_s, BUDGET_MS + 1, 2.0)
    statuses = np.full(len(elapsed), 200, dtype=np.int16)
    names = np.array([b"r-1"] * len(elapsed))
    return Answers(20 + elapsed, np.zeros(len(elapsed)), latencies, statuses, elapsed < degraded_s, names)


@pytest.mark.parametrize(
    ("late_s", "degraded_s", "wanted"),
    [(0.0, 0.0, 0.0), (0.6, 0.0, 0.6), (0.0, 0.8, 0.8), (1.0, 1.4, 1.4), (0.61, 0.0, 0.6), (0.63, 0.0, 0.8)],
)
def test_recovery_is_the_first_window_behind_which_all_is_well(late_s: float, degraded_s: float, wanted: float) -> None:
    """From 0.6 on, one late request in a hundred is allowed, three are not."""
    assert recovery_s(after(late_s=late_s, degraded_s=degraded_s), BUDGET_MS) == wanted


def test_what_is_degraded_without_an_overload_does_not_count() -> None:
    assert recovery_s(after(degraded_s=5.0), BUDGET_MS, usual_degraded=0.2) is None
    assert recovery_s(after(degraded_s=5.0), BUDGET_MS, usual_degraded=1.0) == 0.0


def test_the_shares_of_a_second_may_scatter() -> None:
    """Of 100 requests with a usual share of 0.2 the standard error is 0.04, so up to 0.33 is as usual."""
    answers = after()
    answers.degraded[::2] = True
    assert recovery_s(answers, BUDGET_MS, usual_degraded=0.2) is None
    answers.degraded[::2], answers.degraded[::4] = False, True
    assert recovery_s(answers, BUDGET_MS, usual_degraded=0.2) == 0.0
    answers.latency_ms[::10] = BUDGET_MS + 1
    assert recovery_s(answers, BUDGET_MS, usual_degraded=0.2) is None
    assert recovery_s(answers, BUDGET_MS, usual_degraded=0.2, usual_outside=0.05) == 0.0


def test_degraded_is_a_share_of_the_answers() -> None:
    answers = after(degraded_s=0.5, seconds=1.0)
    answers.status[75:] = 429
    assert degraded_share(answers) == pytest.approx(50 / 75)
    answers.status[:] = 429
    assert degraded_share(answers) == 0.0


def test_refusals_are_read_from_the_real_text_of_the_metrics() -> None:
    metrics = Metrics()
    metrics.observe_request("score", "ok", 0.004)
    metrics.count_shed("no_time", 0.0001)
    metrics.count_shed("queue_full", 0.0003)
    found = shed_figures(shed_histogram(metrics.render().decode()))
    assert found == {"requests": 2, "mean_ms": pytest.approx(0.2), "p50_at_most_ms": 0.1, "p99_at_most_ms": 0.3}


def test_without_a_refusal_there_is_no_time() -> None:
    assert shed_figures(shed_histogram(Metrics().render().decode())) == {"requests": 0}


def test_memory_is_sampled_while_it_grows() -> None:
    code = "import sys\nheld = b''\nfor line in sys.stdin:\n    held += b'x' * (50 << 20)\n    print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = rss_mb(process.pid)
        with sampled_rss(process.pid) as samples:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            while max(samples) < before + 40:
                time.sleep(0.01)
        process.stdin.close()
    assert rss_mb(os.getpid()) > 10
