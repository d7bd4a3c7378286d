"""The picture of the dashboard: every panel of the real JSON can be drawn, whatever Prometheus gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from dashboard_plots import Answered, draw_dashboard, format_value

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "ranktower.json"
PANELS = json.loads(FILE.read_text(encoding="utf-8"))["panels"]
LABELS = {"instance": "a:8000", "stage": "score", "role": "current", "release": "r", "model": "m"}


def series(panel: dict[str, Any], *values: str) -> list[dict[str, Any]]:
    """What a query of a panel may give: of a heat map one series for each bucket."""
    if panel["type"] in ("stat", "table"):
        return [{"metric": LABELS, "value": [100.0, value]} for value in values[:1]]
    edges = ("0.001", "0.01", "+Inf") if panel["type"] == "heatmap" else ("",)
    points = [[100.0 + 10 * number, value] for number, value in enumerate(values)]
    return [{"metric": LABELS | {"le": edge}, "values": points} for edge in edges if points]


@pytest.mark.parametrize("values", [(), ("1",), ("0", "NaN", "2.5")])
def test_every_panel_can_be_drawn(values: tuple[str, ...], tmp_path: Path) -> None:
    answered = [Answered(panel, [series(panel, *values) for _ in panel.get("targets", [])]) for panel in PANELS]
    draw_dashboard(answered, tmp_path / "dashboard.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "dashboard.png").shape
    assert width == 24 * 0.75 * 90
    assert height > width


def test_series_are_named_by_their_legend() -> None:
    panel = {"targets": [{"legendFormat": "{{stage}} p99, {{nothing}}"}]}
    found = [{"metric": {"stage": "fetch"}, "values": [[1.0, "2"], [2.0, "3"]]}]
    ((name, times, values),) = Answered(panel, [found]).series()
    assert (name, times.tolist(), values.tolist()) == ("fetch p99, nothing", [1.0, 2.0], [2.0, 3.0])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.015, "s", "15 ms"),
        (0.00025, "s", "250 µs"),
        (0, "s", "0"),
        (7200, "s", "2 h"),
        (172800, "s", "2 d"),
        (0.25, "percentunit", "25%"),
        (40, "%", "40 %"),
        (3 << 20, "bytes", "3 MiB"),
        (12.5, "reqps", "12.5"),
    ],
)
def test_values_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text
