"""Writes ``dashboards/ranktower.json`` for Grafana 12 from the rows beside it: ``python build_dashboard.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panel import INSTALLATION, Panel, Row
from release_rows import FLEET, FRESH, ROWS_FOUND, SERVED, SHADOW
from request_rows import BUDGET, PRESSURE, SLOW

FILE = Path(__file__).parent / "dashboards" / "ranktower.json"
ROWS = (BUDGET, PRESSURE, SLOW, SERVED, FRESH, SHADOW, ROWS_FOUND, FLEET)

_SCHEMA_VERSION = 41  # of Grafana 12.1
_PAGE_WIDTH = 24
_HEIGHTS = {"stat": 7, "timeseries": 8, "heatmap": 8, "table": 8}
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's file provider reads it."""
    return {
        "uid": "ranktower",
        "title": "RankTower",
        "description": "Is it inside the budget, what is it degrading and why, what is slow, which release is served,"
        " how fresh is it, how good is the shadow?",
        "tags": ["ranktower"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": list(_place(ROWS)),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1},
        _labels("model", "Model", "ranktower_release_info"),
        _labels("job", "Job", 'ranktower_release_info{model="$model"}'),
        # Outside Kubernetes there are no such labels, and the choice is empty.
        _labels("namespace", "Namespace", 'ranktower_release_info{model="$model", job="$job"}'),
        _labels("service", "Service", 'ranktower_release_info{model="$model", job="$job", namespace=~"$namespace"}'),
        _labels("instance", "Replica", f'ranktower_release_info{{model="$model", {INSTALLATION}}}')
        | {"multi": True, "includeAll": True, "current": {"text": ["All"], "value": ["$__all"]}},
    ]


def _labels(label: str, heading: str, metric: str) -> dict[str, Any]:
    """A variable with the values that a label of a metric has."""
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": heading,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,  # whenever the range of time changes
        "sort": 1,
    }


def _place(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """All panels with their numbers and places: under each question its panels, from left to right."""
    number, y = 0, 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": _PAGE_WIDTH, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": row.question, "collapsed": False, "gridPos": place, "panels": []}
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _PAGE_WIDTH:
                x, y, height = 0, y + height, 0
            # Panels side by side are of one height.
            height = height or _HEIGHTS[panel.kind]
            number += 1
            yield _panel(panel) | {"id": number, "gridPos": {"h": height, "w": panel.width, "x": x, "y": y}}
            x += panel.width
        y += height


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": panel.above, "value": None}]
    steps += [{"color": color, "value": value} for value, color in panel.limits]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": _CUSTOM[panel.kind](panel),
    }
    if panel.kind == "stat" and panel.unit == "percentunit":
        defaults["decimals"] = 3
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": [_target(panel, number) for number in range(len(panel.queries))],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind](panel),
        "transformations": _columns(panel) if panel.columns else [],
    }


def _target(panel: Panel, number: int) -> dict[str, Any]:
    query, is_now = panel.queries[number], panel.kind in ("stat", "table")
    return {
        "refId": "ABCDEFGH"[number],
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "instant": is_now,
        "range": not is_now,
        "format": panel.kind if panel.kind in ("heatmap", "table") else "time_series",
    }


def _columns(panel: Panel) -> list[dict[str, Any]]:
    names = list(panel.columns)
    order = {name: place for place, name in enumerate(names)}
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
        {"id": "organize", "options": {"indexByName": order, "renameByName": panel.columns, "excludeByName": {}}},
    ]


def _lines(panel: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 0 if panel.stacking == "none" else 40,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": panel.stacking, "group": "A"},
        "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
    }


_CUSTOM = {"timeseries": _lines, "stat": lambda _: {}, "heatmap": lambda _: {}, "table": lambda _: {"align": "left"}}
_OPTIONS = {
    "timeseries": lambda panel: {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": lambda panel: {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    },
    "heatmap": lambda panel: {
        "calculate": False,
        "cellGap": 0,
        "color": {"mode": "scheme", "scheme": "Blues", "fill": "dark-orange", "exponent": 0.5, "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": panel.unit},
    },
    "table": lambda panel: {"cellHeight": "sm", "showHeader": True},
}


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
