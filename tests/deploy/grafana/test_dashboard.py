"""The dashboard: every query of it has data from a real Prometheus, and its JSON is what Grafana takes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

FOLDER = Path(__file__).parents[3] / "deploy" / "grafana"
FILE = FOLDER / "dashboards" / "ranktower.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
# As Grafana fills them in, with all replicas chosen.
VARIABLES = {
    "$job": "ranktower",
    "$namespace": "ranking",
    "$service": "films",
    "$instance": "127.0.0.1:.+",
    "$model": "demo",
    "$__rate_interval": "5s",
}


@pytest.mark.parametrize("expr", QUERIES)
def test_every_query_has_data(expr: str, watched: Any) -> None:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    series = watched.query(expr)
    assert any(math.isfinite(float(value)) for one in series for _, value in one["values"])


def test_every_variable_has_values(watched: Any) -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        for name, value in VARIABLES.items():
            metric = metric.replace(name, value)
        assert {one["metric"][label] for one in watched.query(metric)}, variable["name"]


def test_the_file_is_what_its_source_makes() -> None:
    code = "import sys, build_dashboard; sys.stdout.write(build_dashboard.text())"
    made = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, check=True, capture_output=True, text=True).stdout
    assert made == FILE.read_text(encoding="utf-8"), "run python deploy/grafana/build_dashboard.py"


def dropped(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where ``theirs`` lacks or changes something of ``ours``; what it adds are defaults."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from dropped(value, theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from dropped(*pair, f"{path}[{number}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} became {theirs!r}"


def test_grafanas_own_schema_knows_every_key() -> None:
    """By the models that Grafana generates from its schemas: what they do not know, they drop."""
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert list(dropped(DASHBOARD, read)) == []
    assert list(dropped(DASHBOARD | {"tag": ["misspelt"]}, read)) == [".tag: ['misspelt'] became None"]


def test_every_panel_explains_itself_and_names_its_series() -> None:
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["legendFormat"] or panel["type"] == "table", panel["title"]
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_panels_fill_the_page_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, (one, other)
    assert sum(place["w"] * place["h"] for place in places) == 24 * max(p["y"] + p["h"] for p in places)
