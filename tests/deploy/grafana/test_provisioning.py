"""What Grafana reads when it starts: the data source that the dashboard chooses, and where the dashboard lies.

Grafana has no published schema of these files; their keys are held against its documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
PROVISIONING = DEPLOY / "grafana" / "provisioning"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PROVISIONING / name).read_text(encoding="utf-8"))
    assert content.pop("apiVersion") == 1
    return content


def test_the_data_source_is_the_prometheus_of_the_stack() -> None:
    content = read("datasources/prometheus.yaml")
    ((section, (source,)),) = content.items()
    assert section == "datasources"
    known = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
    assert source.keys() <= known
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


def test_the_dashboards_are_read_from_a_folder() -> None:
    content = read("dashboards/ranktower.yaml")
    ((section, (provider,)),) = content.items()
    assert section == "providers"
    known = {"name", "folder", "type", "allowUiUpdates", "disableDeletion", "updateIntervalSeconds", "options"}
    assert provider.keys() <= known
    assert provider["type"] == "file"
    assert provider["options"].keys() == {"path"}
