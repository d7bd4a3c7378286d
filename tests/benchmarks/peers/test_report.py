"""The tables and the plot of a small made-up result."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from report import markdown, plot
from run import _open_rates, _ratios


def open_run(rate: float) -> dict[str, float]:
    times = {"p50_ms": 1.5, "p90_ms": 2.25, "p99_ms": 4.0, "p999_ms": 8.0}
    return {"offered_per_s": rate, **times, "non_200": 1, "failed": 2}


@pytest.fixture
def result() -> dict[str, Any]:
    throughput = {
        "bentoml": {"requests_per_s": 130.0, "connections": 4},
        "rayserve": {"requests_per_s": 50.0, "connections": 1},
        "ours_float16": {"requests_per_s": 520.0, "connections": 16},
    }
    return {
        "num_candidates": 1000,
        "peer_versions": {"bentoml": "bentoml==1.4.40", "rayserve": "ray==2.60.0"},
        "agreement": {name: {"max_abs_difference": 2.5e-6, "tolerance": 1e-4} for name in throughput},
        "generator": {
            "closed": {"requests_per_s": 7000.0},
            "open": [{"offered_per_s": 1000.0, "lag_p99_ms": 0.1}, {"offered_per_s": 4000.0, "lag_p99_ms": 0.25}],
        },
        "throughput": throughput,
        "ratios": {"ours_float16": {"bentoml": 4.0, "rayserve": 10.4}},
        "latency": {
            "half": {name: open_run(0.5 * found["requests_per_s"]) for name, found in throughput.items()},
            "common": {"bentoml": open_run(91.0), "ours_float16": open_run(91.0)},
        },
    }


def test_the_tables_hold_the_figures(result: dict[str, Any]) -> None:
    text = markdown(result)
    assert "| BentoML 1.4.40 | 130 | 4 | 4.0× |" in text
    assert "| Ray Serve 2.60.0 | 50 | 1 | 10.4× |" in text
    assert "| RankTower, float16 rows | 520 | 16 |  |" in text
    assert "| RankTower, float16 rows | 260 | 1.50 | 2.25 | 4.00 | 8.00 | 3 |" in text
    assert "| Ray Serve 2.60.0 | does not hold it |  |  |  |  |  |" in text
    assert "| BentoML 1.4.40 | 2.5e-06 | 1e-04 |" in text
    assert "made 7000 requests/s; the open loop held 4000/s and was 0.25 ms late at its p99." in text


def test_every_table_has_as_many_cells_in_each_row(result: dict[str, Any]) -> None:
    for block in markdown(result).split("\n\n"):
        cells = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(cells) <= 1, block


def test_the_plot_is_an_svg_with_every_server_and_the_same_each_time(result: dict[str, Any], tmp_path: Path) -> None:
    plot(result, tmp_path / "one.svg")
    plot(result, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    # matplotlib draws text as outlines and notes it in a comment.
    for label in ("BentoML 1.4.40", "Ray Serve 2.60.0", "RankTower, float16 rows", "does not hold this rate"):
        assert label in text
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")


def test_ratios_are_ours_over_theirs(result: dict[str, Any]) -> None:
    assert _ratios(result["throughput"]) == {"ours_float16": {"bentoml": 4.0, "rayserve": 10.4}}


def test_the_common_rate_is_one_that_the_slowest_peer_but_ray_holds() -> None:
    rates = _open_rates({"bentoml": 130.0, "litserve": 150.0, "rayserve": 50.0, "ours_float32": 500.0})
    assert rates["half"] == {"bentoml": 65.0, "litserve": 75.0, "rayserve": 25.0, "ours_float32": 250.0}
    assert rates["common"] == pytest.approx({"bentoml": 91.0, "litserve": 91.0, "ours_float32": 91.0})


def test_ours_alone_has_a_common_rate_too() -> None:
    assert _open_rates({"ours_float32": 500.0})["common"] == {"ours_float32": 350.0}
