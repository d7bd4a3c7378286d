"""The chart, rendered by Helm's own library for the ways in which it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "ranktower"

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
EVERYTHING: dict[str, Any] = {
    "model": "films",
    "commonLabels": {"team": "ranking"},
    "imagePullSecrets": ["pull"],
    "image": {"digest": "sha256:" + "0" * 64},
    "config": {
        "http": {"workers": 4, "backlog": 4096},
        "store": {"users": "redis", "items": "local+redis", "timeout_ms": 20},
        "limits": {"max_body_bytes": 8388608},
        "budget": {"default_ms": 50},
        "console": {"enabled": False},
        "log": {"level": "warning"},
    },
    "drain": {"delaySeconds": 10, "timeoutSeconds": 20},
    "redis": {"url": "rediss://reader@redis:6380", "existingSecret": "redis"},
    "tracing": {"endpoint": "http://collector.monitoring:4318"},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "podAnnotations": {"example.com/owner": "ranking"},
    "podLabels": {"tier": "online"},
    "nodeSelector": {"pool": "online"},
    "tolerations": [{"key": "online", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "online",
    "serviceAccount": {"annotations": {"example.com/role": "none"}},
    "service": {"annotations": {"example.com/scrape": "no"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "rank.example.com", "tlsSecret": "rank-tls"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["rank.example.com"]},
    "autoscaling": {"enabled": True, "shedRate": {"enabled": True}},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [PEER],
        "redis": {"to": [{"podSelector": {"matchLabels": {"app": "redis"}}}]},
        "otlp": {"to": [PEER]},
        "extraEgress": [{"ports": [{"port": 2049}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "offline": {
        "enabled": True,
        "data": {"existingClaim": "logs", "path": "films/today"},
        "trainConfig": "max_epochs: 3\n",
        "extraEnv": [{"name": "OMP_NUM_THREADS", "value": "4"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "nodeSelector": {"pool": "batch"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "deltas": {"enabled": True, "users": "changed_users.parquet"},
    },
}
SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "redis-cluster": {
        "config": {"store": {"users": "redis", "items": "redis"}, "release": {"pointer": "redis"}},
        "redis": {"cluster": True, "existingSecret": "redis", "urlKey": "url"},
        "networkPolicy": {"enabled": True},
        "offline": {"enabled": True},
    },
    # A second installation with a new image, on the first one's releases, behind the first one's route.
    "canary": {
        "fullnameOverride": "films-canary",
        "image": {"tag": "0.2.0-rc1"},
        "replicas": 1,
        "registry": {"existingClaim": "films-ranktower-registry"},
        "podDisruptionBudget": {"enabled": False},
        "topologySpreadConstraints": [],
    },
    "no-auth": {"auth": {"required": False, "existingSecret": ""}, "serviceAccount": {"create": False}},
}


@dataclass(frozen=True)
class Rendered:
    """What one installation puts into a cluster."""

    values: dict[str, Any]
    """Those of the chart under those of the installation."""
    objects: list[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        """The only object of a kind."""
        (found,) = self.all(kind)
        return found

    def pods(self) -> Iterator[dict[str, Any]]:
        """The pod templates of the deployment and of the jobs."""
        yield self.one("Deployment")["spec"]["template"]
        for job in self.all("CronJob"):
            yield job["spec"]["jobTemplate"]["spec"]["template"]

    def container(self) -> dict[str, Any]:
        """The service's container."""
        (container,) = self.one("Deployment")["spec"]["template"]["spec"]["containers"]
        return container


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    helm.disable_logging()
    with helm.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm.Chart) -> Callable[[dict[str, Any]], Rendered]:
    """``render(values)``: as ``helm install films`` would."""

    def rendered(values: dict[str, Any]) -> Rendered:
        files = chart.render(values, name="films", namespace="ranking")
        texts = (text for name, text in files.items() if name.endswith(".yaml"))
        objects = [one for text in texts for one in yaml.safe_load_all(text) if one]
        return Rendered(chart.merge_values(values), objects)

    return rendered


@pytest.fixture(params=SETS, scope="session")
def rendered(request: pytest.FixtureRequest, render: Callable[[dict[str, Any]], Rendered]) -> Rendered:
    """Each way to install it."""
    return render(SETS[request.param])


@pytest.fixture(scope="session")
def everything(render: Callable[[dict[str, Any]], Rendered]) -> Rendered:
    """With all that can be switched on."""
    return render(EVERYTHING)
