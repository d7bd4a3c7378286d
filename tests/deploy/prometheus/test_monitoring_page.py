"""docs/monitoring.md: its tables are those of the program and of the rules."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from service.app import create_server
from service.settings import Settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def table(name: str) -> str:
    """What stands between the marks of a generated table."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, flags=re.DOTALL)
    assert found is not None
    return found[1]


def metrics_table(folder: Path) -> str:
    """All metrics, as they are registered by the whole application."""
    server = create_server(Settings(release={"registry": folder, "model": "m"}, auth={"api_key": "k" * 16}))
    lines = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for metric in server._metrics.registry._collector_to_names:
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        name = metric._name + ("_total" if metric._type == "counter" else "")
        lines.append(f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |")
    return "\n".join(lines) + "\n"


def alerts_table() -> str:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    lines = ["| alert | | when |", "|---|---|---|"]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        name, severity = rule["alert"], rule["labels"]["severity"]
        lines.append(f"| [{name}](runbooks.md#{name.lower()}) | {severity} | {rule['annotations']['summary']} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_metrics_is_the_registry(tmp_path: Path) -> None:
    assert table("metrics") == metrics_table(tmp_path)


def test_the_table_of_alerts_is_the_rules() -> None:
    assert table("alerts") == alerts_table()
