"""The processor time of a request, from two runs of a real locust."""

from __future__ import annotations

from pathlib import Path

import pytest
from locust_generator import cpu_ms_per_request, run
from reference_release import build_reference_release, serving
from stack_page import generator


def test_what_starting_takes_is_in_both_runs() -> None:
    assert cpu_ms_per_request((100, 4.0), (500, 4.2)) == pytest.approx(0.5)


def test_a_run_tells_its_requests_and_its_time(tmp_path: Path) -> None:
    build_reference_release(tmp_path, num_users=300, num_items=500)
    with serving(tmp_path, {}) as address:
        num_requests, cpu_s = run(address, tmp_path, rate=10, seconds=3)
    assert num_requests > 0
    assert cpu_s > 0


def test_a_run_that_does_not_come_about_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="locust ended with status 2"):
        run("http://127.0.0.1:9", tmp_path, rate=1, seconds=1)


def test_the_page_rounds_down_what_can_be_sent() -> None:
    machine = {"cpu": "a processor", "num_cores": 2}
    result = {"cpu_ms": 0.739, "date": "2026-01-02", "command": "python b.py", "machine": machine}
    assert "0.74 ms" in generator(result)
    assert "some 1,300 a second" in generator(result)
    assert "python benchmarks/locust_generator.py" in generator(None)
