"""Every rule, and every query of the runbooks, against a Prometheus that watches a real service."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.keys_command import main as keys_command

ROOT = Path(__file__).parents[3]
GROUPS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
RECORDS = [rule["record"] for rule in RULES if "record" in rule]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
# Without line breaks, which are in some selectors.
COUNTERS = sorted(
    {
        re.sub(r"\s+", "", one)
        for rule in RULES
        for one in re.findall(r"ranktower_\w+_total(?:\{[^}]*\})?", rule["expr"])
    }
)
RUNBOOK_QUERIES = re.findall(
    r"^```promql\n(.*?)^```",
    (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE | re.DOTALL,
)
# What the alerts and the runbooks ask for, and only a service in trouble has.
TROUBLE = {'up{job="ranktower"} == 0', 'unless on (job, instance) ranktower_release_info{role="current"} == 1'}


def names_of(expr: str) -> set[str]:
    """The metrics in an expression."""
    return set(re.findall(r"\b(?:job:)?ranktower_\w+(?::\w+)?|\bup\b", re.sub(r'"[^"]*"', "", expr)))


@pytest.fixture(scope="module")
def untouched(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The labels of all samples, ``__name__`` among them, of a service that nobody has asked anything."""
    folder = tmp_path_factory.mktemp("untouched")
    with contextlib.redirect_stdout(io.StringIO()):
        assert keys_command(["create", "--file", str(folder / "keys.yaml"), "--name", "shop", "--rate-per-s", "9"]) == 0
    server = start_server(folder, AUTH__KEYS_FILE=str(folder / "keys.yaml"))
    server.wait_until(lambda: any(line["message"] == "keys file read" for line in server.lines()), "started")
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return [{"__name__": sample.name, **sample.labels} for family in families for sample in family.samples]


@pytest.mark.parametrize("selector", COUNTERS)
def test_counters_of_alerts_are_there_from_the_start(selector: str, untouched: list[dict[str, str]]) -> None:
    """With the values that the rules name: a counter that comes with its first event has no increase by it."""
    name, _, labels = selector.rstrip("}").partition("{")
    matchers = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', labels)
    assert any(
        one["__name__"] == name
        and all((re.fullmatch(value, one.get(label, "")) is None) == (how == "!=") for label, how, value in matchers)
        for one in untouched
    )


def test_refusals_are_there_from_the_start_for_each_role_and_reason(untouched: list[dict[str, str]]) -> None:
    name, reasons = "ranktower_release_refused_total", ("release_invalid", "golden_mismatch", "store_unavailable")
    found = {(one["role"], one["reason"]) for one in untouched if one["__name__"] == name}
    assert found == {*product(("current", "canary", "shadow"), reasons), ("previous", "release_invalid")}


@pytest.mark.parametrize("record", RECORDS)
def test_every_recording_rule_records(record: str, watched: Any) -> None:
    values = [float(value) for series in watched.query(record) for _, value in series["values"]]
    assert any(math.isfinite(value) for value in values)


def test_every_share_is_one(watched: Any) -> None:
    for record in (name for name in RECORDS if ":ratio_" in name):
        values = [float(value) for series in watched.query(record) for _, value in series["values"]]
        assert all(-1e-9 <= value <= 1 for value in values if math.isfinite(value)), record


def test_every_rule_is_evaluated_without_an_error(watched: Any) -> None:
    groups = watched.client.get("/api/v1/rules").json()["data"]["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys([*RECORDS, *ALERTS], ("ok", ""))


def test_every_metric_of_the_alerts_is_there(watched: Any) -> None:
    for rule in RULES:
        for name in names_of(rule["expr"]):
            assert watched.query(name), (rule, name)


@pytest.mark.parametrize("expr", RUNBOOK_QUERIES)
def test_every_query_of_the_runbooks_runs(expr: str, watched: Any) -> None:
    series = watched.query(expr)
    assert series or any(trouble in expr for trouble in TROUBLE)


def test_alerts_fire_on_the_real_service(watched: Any) -> None:
    """It sheds and refuses; how long an alert waits is promtool's part."""
    for name in ("RankTowerReleaseRefused", "RankTowerShedding"):
        assert watched.query(f'ALERTS{{alertname="{name}"}}'), name
