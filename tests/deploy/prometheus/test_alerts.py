"""Every alert fires when it should and only then, by promtool's own unit tests on series made up for it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import service.errors
from service.errors import ServiceError, ShedError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}

INSTALLATION = {"job": "ranktower", "namespace": "ranking", "service": "films"}
REPLICA = {**INSTALLATION, "instance": "a:8000"}
Series = Sequence[tuple[str, str]]
"""Name and labels besides those of the replica; values as promtool writes them, one a minute."""


@dataclass(frozen=True)
class Case:
    """What an alert fires on, what it says then, and what it must not fire on."""

    alert: str
    fires: Series
    says: str
    calm: Sequence[Series]
    labels: dict[str, str] = field(default_factory=lambda: INSTALLATION)
    after: str = "1h"


def grows(name: str, a_minute: float, minutes: int = 100) -> tuple[str, str]:
    """A counter."""
    return name, f"0+{a_minute}x{minutes}"


def stays(name: str, value: float, minutes: int = 200) -> tuple[str, str]:
    """A gauge, or a counter at rest."""
    return name, f"{value}x{minutes}"


def late(of_a_thousand: float, minutes: int = 100) -> Series:
    return (
        grows('ranktower_budget_used_ratio_count{endpoint="score"}', 1000, minutes),
        grows('ranktower_budget_used_ratio_bucket{endpoint="score", le="1.0"}', 1000 - of_a_thousand, minutes),
    )


def answered(minutes: int = 100, **others: float) -> Series:
    """A thousand answers a minute, and so many requests of other outcomes; ``shed_low`` and ``shed_normal`` too, and
    explanations that were shed."""
    explain = others.pop("explain", 0)
    shed = {name: others.pop(f"shed_{name}", 0) for name in ("normal", "low")}
    outcomes = {"ok": 1000.0, **others, "shed": sum(shed.values())}
    return (
        *(
            grows(f'ranktower_request_duration_seconds_count{{endpoint="score", outcome="{outcome}"}}', num, minutes)
            for outcome, num in outcomes.items()
        ),
        *(
            grows(f'ranktower_shed_total{{endpoint="score", reason="no_time", priority="{name}"}}', num, minutes)
            for name, num in shed.items()
        ),
        grows('ranktower_shed_total{endpoint="explain", reason="no_time", priority="normal"}', explain, minutes),
        grows('ranktower_request_duration_seconds_count{endpoint="explain", outcome="shed"}', explain, minutes),
    )


def shares(**of_a_hundred: float) -> Series:
    """Counters beside a hundred requests a minute with a hundred candidates each."""
    names = {
        "degraded": 'ranktower_degraded_total{level="pooled", reason="load"}',
        "answers_low": 'ranktower_answers_total{role="current", priority="low"}',
        "shed": 'ranktower_shed_total{endpoint="rank", reason="no_time", priority="normal"}',
        "shed_low": 'ranktower_shed_total{endpoint="rank", reason="no_time", priority="low"}',
        "explain": 'ranktower_shed_total{endpoint="explain", reason="no_time", priority="normal"}',
        "no_user": 'ranktower_missing_total{side="user"}',
        "no_item": 'ranktower_missing_total{side="item"}',
        "made_user": 'ranktower_computed_total{side="user"}',
        "made_item": 'ranktower_computed_total{side="item"}',
        "timeout": 'ranktower_store_errors_total{kind="timeout"}',
        "rejected": 'ranktower_store_errors_total{kind="rejected_row"}',
    }
    return (
        grows('ranktower_answers_total{role="current", priority="normal"}', 100),
        grows('ranktower_request_duration_seconds_count{endpoint="rank", outcome="ok"}', 100),
        grows("ranktower_candidates_count", 100),
        grows("ranktower_candidates_sum", 10_000),
        *(grows(full, of_a_hundred.get(name, 0)) for name, full in names.items()),
    )


def info(release: str, value: int, role: str = "current") -> tuple[str, str]:
    return stays(f'ranktower_release_info{{model="m", release="{release}", role="{role}"}}', value)


# Ten times the objective for an hour, then well for 35 minutes.
OVER = (
    ('ranktower_budget_used_ratio_count{endpoint="score"}', "0+1000x95"),
    ('ranktower_budget_used_ratio_bucket{endpoint="score", le="1.0"}', "0+900x60 55000+1000x35"),
)
REFUSED = 'ranktower_release_refused_total{reason="release_invalid", role="previous"}'

CASES = (
    Case(
        "RankTowerLatencyBurnFast",
        late(20),
        "2% of the answers of ranktower with a budget left after it; 0.1% is the objective.",
        (late(5), OVER),
        after="95m",
    ),
    Case(
        "RankTowerLatencyBurnSlow",
        late(2, 500),
        "0.2% of the answers of ranktower with a budget left after it; 0.1% is the objective.",
        (late(0.5, 500),),
        after="8h",
    ),
    Case(
        "RankTowerAvailabilityBurnFast",
        answered(internal_error=10, shed_normal=20, explain=500),
        "2.913% of the requests to ranktower got no scores; 0.1% is the objective.",
        (
            answered(internal_error=5),
            answered(malformed=500, client_gone=500, rate_limited=500, shed_low=500, explain=500),
        ),
        after="95m",
    ),
    Case(
        "RankTowerAvailabilityBurnSlow",
        answered(500, deadline_exceeded=2),
        "0.1996% of the requests to ranktower got no scores; 0.1% is the objective.",
        (answered(500, deadline_exceeded=0.5),),
        after="8h",
    ),
    Case(
        "RankTowerAllDown",
        (stays("up", 0),),
        "No replica has answered /metrics for 5 minutes. Nothing is measured, so the alerts on requests cannot fire.",
        ((stays("up", 1), stays('up{instance="b:8000"}', 0)),),
    ),
    Case(
        "RankTowerReplicaDown",
        (stays("up", 0),),
        "a:8000 has not answered /metrics for 2 minutes.",
        ((stays("up", 1),),),
        labels=REPLICA,
    ),
    Case(
        "RankTowerNoRelease",
        (stays("up", 1), info("r1", 0), info("r2", 1, "shadow")),
        "a:8000 runs, but has had no release to serve for 5 minutes; it answers 503.",
        ((stays("up", 1), info("r1", 1)), (stays("up", 0),)),
        labels=REPLICA,
    ),
    Case(
        "RankTowerRestarting",
        # Two workers: where the youngest ends, the other's start shows until there is a new one.
        (("ranktower_start_time_seconds", "1x40 2x3 1 3x3 1 4x3 5x20"),),
        "A worker of a:8000 has started 4 times within 30 minutes.",
        ((("ranktower_start_time_seconds", "2x40 1 3x3 1 4x3 1 5x20"),),),
        labels=REPLICA,
    ),
    Case(
        "RankTowerReleaseStale",
        (stays("ranktower_release_age_seconds", 3 * 86400),),
        "The oldest release that ranktower serves was made 3d 0h 0m 0s ago; two days are allowed.",
        ((stays("ranktower_release_age_seconds", 86400),),),
    ),
    Case(
        "RankTowerDeltaStale",
        (stays("ranktower_delta_timestamp_seconds", 60),),
        "The newest rows of ranktower were computed 2h 59m 0s ago; two hours are allowed.",
        ((stays("ranktower_delta_timestamp_seconds", 0),), (stays("ranktower_delta_timestamp_seconds", 3600),)),
        after="3h",
    ),
    Case(
        "RankTowerReleaseRefused",
        ((REFUSED, "0x55 1x45"),),
        "a:8000 refuses a release as previous: release_invalid. What was served before is served still.",
        ((stays(REFUSED, 7),),),
        labels=REPLICA | {"role": "previous", "reason": "release_invalid"},
    ),
    Case(
        "RankTowerOverlayRefused",
        (grows("ranktower_overlay_refused_total", 1),),
        "a:8000 refuses an overlay; the rows before it are served still.",
        ((stays("ranktower_overlay_refused_total", 7),),),
        labels=REPLICA,
    ),
    Case(
        "RankTowerReleasesDiffer",
        (info("r1", 1), info("r2", 1)),
        "2 releases of m have been current side by side for 15 minutes.",
        ((info("r1", 0), info("r2", 1), info("r3", 1, "canary")),),
        labels=INSTALLATION | {"model": "m"},
    ),
    Case(
        "RankTowerShadowDisagrees",
        (grows("ranktower_shadow_overlap_count", 100), grows("ranktower_shadow_overlap_sum", 30)),
        "Shadow and current release of ranktower share 30% of the best candidates.",
        (
            (grows("ranktower_shadow_overlap_count", 100), grows("ranktower_shadow_overlap_sum", 90)),
            (stays("ranktower_shadow_overlap_count", 0), stays("ranktower_shadow_overlap_sum", 0)),
        ),
    ),
    Case(
        "RankTowerShedding",
        shares(shed=25, answers_low=900),
        "20% of the requests of normal priority to ranktower are shed.",
        (shares(shed=4, shed_low=100, explain=100), shares()),
    ),
    Case(
        "RankTowerDegraded",
        shares(degraded=30),
        "30% of the answers of ranktower are degraded.",
        (shares(degraded=15),),
    ),
    Case(
        "RankTowerStoreErrors",
        shares(timeout=5),
        "5% of the requests to ranktower met a failure of the store.",
        (shares(timeout=0.5, rejected=50),),
    ),
    Case(
        "RankTowerRowsRejected",
        shares(rejected=6),
        "a:8000 found 60 rows within 10 minutes that have a wrong size or tag.",
        (shares(timeout=50),),
        labels=REPLICA,
    ),
    Case(
        "RankTowerUsersUnknown",
        shares(no_user=60, made_user=20),
        "40% of the requests to ranktower are scored for the fallback user.",
        (shares(no_user=60, made_user=60), shares(no_user=20)),
    ),
    Case(
        "RankTowerItemsUnknown",
        shares(no_item=1000),
        "10% of the candidates given to ranktower get no score.",
        (shares(no_item=1000, made_item=1000), shares(no_item=400)),
    ),
    Case(
        "RankTowerScoresNotFinite",
        (grows("ranktower_nonfinite_scores_total", 6),),
        "a:8000 made 60 scores within 10 minutes that are no numbers.",
        ((stays("ranktower_nonfinite_scores_total", 3),),),
        labels=REPLICA,
    ),
    Case(
        "RankTowerAuthFailures",
        (grows('ranktower_auth_failures_total{reason="unknown"}', 120),),
        "ranktower refuses 2 requests a second: unknown.",
        ((grows('ranktower_auth_failures_total{reason="unknown"}', 30),),),
        labels=INSTALLATION | {"reason": "unknown"},
    ),
    Case(
        "RankTowerRateLimited",
        (grows('ranktower_rate_limited_total{key="shop"}', 120),),
        "ranktower refuses 2 requests a second of the key shop.",
        ((grows('ranktower_rate_limited_total{key="shop"}', 30),),),
        labels=INSTALLATION | {"key": "shop"},
    ),
    Case(
        "RankTowerKeysRefused",
        (grows("ranktower_auth_keys_refused_total", 1),),
        "a:8000 finds its keys file broken or gone; the keys read before it hold.",
        ((stays("ranktower_auth_keys_refused_total", 7),),),
        labels=REPLICA,
    ),
)


def of_replica(series: Series, **others: str) -> list[dict[str, str]]:
    """The series with the labels that a scrape adds, unless they have some of them; ``others`` is another replica."""
    scraped = []
    for name, values in series:
        bare, _, own = name.rstrip("}").partition("{")
        labels = [f'{label}="{value}"' for label, value in (REPLICA | others).items() if f"{label}=" not in own]
        scraped.append({"series": f"{bare}{{{', '.join([*labels, own] if own else labels)}}}", "values": values})
    return scraped


def promtool_test(case: Case, series: list[dict[str, str]], *, fires: bool) -> dict[str, Any]:
    """One test in promtool's form."""
    rule = ALERTS[case.alert]
    annotations = {
        "summary": rule["annotations"]["summary"],
        "description": case.says,
        "runbook_url": f"docs/runbooks.md#{case.alert.lower()}",
    }
    expected = {"exp_labels": case.labels | rule["labels"], "exp_annotations": annotations}
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {"eval_time": case.after, "alertname": case.alert, "exp_alerts": [expected] if fires else []}
        ],
    }


def run_promtool(tests: list[dict[str, Any]], folder: Path) -> None:
    document = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    command = ["promtool", "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    tests = [promtool_test(case, of_replica(case.fires), fires=True)]
    tests += [promtool_test(case, of_replica(series), fires=False) for series in case.calm]
    # Another installation under the same job name, where all is well, takes nothing away from it.
    for other in ({"namespace": "trials"}, {"service": "films-next"}):
        calm = of_replica(case.calm[0], **other, instance="c:8000")
        tests.append(promtool_test(case, [*of_replica(case.fires), *calm], fires=True))
    run_promtool(tests, tmp_path)


def test_a_prometheus_that_finds_nobody_says_so(tmp_path: Path) -> None:
    (case,) = (replace(case, labels={"job": "ranktower"}) for case in CASES if case.alert == "RankTowerAllDown")
    run_promtool([promtool_test(case, [], fires=True)], tmp_path)


def test_every_alert_has_its_case_and_its_runbook() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (RankTower\w+)$", text, flags=re.MULTILINE) == list(ALERTS)
    assert [case.alert for case in CASES] == list(ALERTS)


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name


def test_faults_of_clients_are_those_with_a_status_below_500() -> None:
    """And whatever outcome comes to be known is ours until somebody says otherwise."""
    (rule,) = (rule for rule in RULES if rule.get("record") == "job:ranktower_deserving:rate5m")
    named = {name for part in re.findall(r'outcome!~"([^"]+)"', rule["expr"]) for name in part.split("|")}
    raised = [value for value in vars(service.errors).values() if isinstance(value, type)]
    errors = [value for value in raised if issubclass(value, ServiceError) and value is not ServiceError]
    clients = {error.error_type for error in errors if error.status < 500}
    assert ShedError.error_type in clients
    # Starlette's own, which have no class here.
    assert named == clients | {"not_found", "method_not_allowed", "http_error"}


@pytest.mark.parametrize("command", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_takes_the_files(command: tuple[str, str]) -> None:
    kind, name = command
    done = subprocess.run(["promtool", "check", kind, "--lint=all", "--lint-fatal", name], cwd=FOLDER, check=False)
    assert done.returncode == 0
