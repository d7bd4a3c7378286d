"""Values that cannot work are refused, by their names."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": "films/new"}, "at '/model': 'films/new' does not match pattern"),
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        ({"replicas": "3"}, "at '/replicas': got string, want integer"),
        ({"drain": {"delaySeconds": 1.5}}, "at '/drain/delaySeconds': got number, want integer"),
        ({"drain": {"delay": 5}}, "at '/drain': additional properties 'delay' not allowed"),
        ({"drain": {"timeoutSeconds": 0}}, "at '/drain/timeoutSeconds': minimum: got 0, want 1"),
        ({"config": {"http": {"port": 9000}}}, "at '/config/http/port': false schema"),
        ({"config": {"store": {"redis_url": "redis://h"}}}, "at '/config/store/redis_url': false schema"),
        (
            {"config": {"auth": {"api_key": "0123456789abcdef"}}},
            "at '/config': additional properties 'auth' not allowed",
        ),
        (
            {"config": {"budget": {"defalut_ms": 3}}},
            "at '/config/budget': additional properties 'defalut_ms' not allowed",
        ),
        ({"config": {"http": {"workers": "many"}}}, "at '/config/http/workers': got string, want integer"),
        ({"config": {"overload": {"max_waiting": 0}}}, "at '/config/overload/max_waiting': minimum: got 0, want 1"),
        ({"resources": {"request": {"cpu": "1"}}}, "at '/resources': additional properties 'request' not allowed"),
        ({"podLabels": {"app.kubernetes.io/component": "x"}}, "at '/podLabels/app.kubernetes.io~1component'"),
        ({"commonLabels": {"app.kubernetes.io/version": "x"}}, "at '/commonLabels/app.kubernetes.io~1version'"),
        ({"serviceMonitor": {"labels": {"helm.sh/chart": "x"}}}, "at '/serviceMonitor/labels/helm.sh~1chart'"),
        ({"registry": {"accessModes": ["RWX"]}}, "at '/registry/accessModes/0': value must be one of"),
        ({"image": {"digest": "sha256:12"}}, "at '/image/digest': 'sha256:12' does not match pattern"),
        ({"publicPaths": []}, "at '/publicPaths': minItems: got 0, want 1"),
        ({"offline": {"gc": {"keep": 0}}}, "at '/offline/gc/keep': minimum: got 0, want 1"),
        ({"offline": {"pipeline": {"schedule": "daily"}}}, "at '/offline/pipeline/schedule': 'daily' does not match"),
    ],
)
def test_the_schema_refuses(chart: helm.Chart, values: dict[str, Any], text: str) -> None:
    with pytest.raises(helm.HelmValuesError) as refused:
        chart.render(values, name="films")
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image": {"tag": "latest"}}, "image.tag=latest: nobody could say what runs, or roll back to it"),
        ({"offline": {"image": {"tag": "latest"}}}, "offline.image.tag=latest: nobody could say"),
        ({"config": {"store": {"users": "redis"}}}, "redis.url: not set, but config.store"),
        (
            {"config": {"release": {"pointer": "redis"}}},
            "redis.url: not set, but config.store or config.release.pointer",
        ),
        ({"redis": {"url": "redis://u:hunter2@h"}}, "redis.url: holds a password"),
        ({"redis": {"url": "redis://u:hunter2/w@h"}}, "redis.url: holds a password"),
        ({"redis": {"url": "redis://h:6379/0?db=1&password=hunter2"}}, "redis.url: holds a password"),
        (
            {"extraEnv": [{"name": "RANKTOWER_AUTH__API_KEY", "value": "hunter2"}]},
            "extraEnv: RANKTOWER_AUTH__API_KEY has its value here",
        ),
        (
            {"offline": {"extraEnv": [{"name": "RANKTOWER_STORE__REDIS_URL", "value": "redis://:hunter2@h"}]}},
            "offline.extraEnv: RANKTOWER_STORE__REDIS_URL has its value here",
        ),
        (
            {"networkPolicy": {"enabled": True}, "ingress": {"enabled": True, "host": "h"}},
            "networkPolicy.ingressFrom: empty, and ingress.enabled is true",
        ),
        (
            {"networkPolicy": {"enabled": True}, "serviceMonitor": {"enabled": True}},
            "networkPolicy.ingressFrom: empty, and serviceMonitor.enabled is true",
        ),
        (
            {"commonLabels": {"team": "a"}, "podLabels": {"team": "b"}},
            "podLabels: team stands in commonLabels too",
        ),
        (
            {"registry": {"readOnly": True}, "offline": {"enabled": True}},
            "registry.readOnly: true, and offline.enabled is true",
        ),
        ({"redis": {"urlKey": "url"}}, 'redis.urlKey="url": of which secret?'),
        ({"auth": {"existingSecret": ""}}, "auth.existingSecret: not set, and auth.required is true"),
        ({"autoscaling": {"minReplicas": 11}}, "autoscaling.minReplicas=11: above autoscaling.maxReplicas=10"),
        ({"ingress": {"enabled": True}}, "ingress.host: not set, and ingress.enabled is true"),
        ({"gateway": {"enabled": True}}, "gateway.parentRefs: empty, and gateway.enabled is true"),
        ({"offline": {"enabled": True, "deltas": {"enabled": True}}}, "offline.data.existingClaim: not set"),
        (
            {
                "offline": {
                    "enabled": True,
                    "data": {"existingClaim": "logs"},
                    "deltas": {"enabled": True, "items": "", "users": ""},
                }
            },
            "offline.deltas: neither items nor users",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(chart: helm.Chart, values: dict[str, Any], text: str) -> None:
    with pytest.raises(helm.HelmRenderError) as refused:
        chart.render(values, name="films")
    assert text in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_secret_by_reference_is_taken(chart: helm.Chart) -> None:
    reference = {"secretKeyRef": {"name": "key", "key": "key"}}
    chart.render({"extraEnv": [{"name": "RANKTOWER_AUTH__API_KEY", "valueFrom": reference}]}, name="films")


def test_the_schema_knows_the_settings_of_today() -> None:
    written = runpy.run_path(str(ROOT / "deploy/helm/config_schema.py"))
    assert written["SCHEMA"].read_text(encoding="utf-8") == written["text"](), "run python deploy/helm/config_schema.py"


def test_whatever_the_schema_allows_has_a_default(chart: helm.Chart) -> None:
    """So that it stands in values.yaml and in the table made of it. The other way round, Helm itself would refuse."""
    schema = chart.schema
    assert schema is not None

    def missing(part: dict[str, Any], values: Any, above: str) -> list[str]:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if part.get("additionalProperties") is not False or above in {"config.", "global."}:
            return []
        found = []
        for key, below in part["properties"].items():
            found += missing(below, values[key], f"{above}{key}.") if key in values else [f"{above}{key}"]
        return found

    assert missing(schema, chart.values, "") == ["global"]
