"""Every object of every way to install the chart: valid in Kubernetes, and in agreement with the others."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from ranktower import __version__

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "ranktower"
OLDEST = "1.27"
VERSIONS = [one for one in dict.fromkeys(all_versions()) if int(one.split(".")[1]) >= int(OLDEST.split(".")[1])]


OPERATORS = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
}
SCHEMAS = yaml.safe_load(Path(__file__).with_name("operator_schemas.yaml").read_text(encoding="utf-8"))


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("version", [f"v{one}" for one in VERSIONS])
def test_lint_has_nothing_to_say(version: str) -> None:
    report = helm.lint(CHART, strict=True, kube_version=version)
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


def test_the_versions_are_those_of_the_chart(chart: helm.Chart) -> None:
    assert chart.metadata["kubeVersion"] == f">={OLDEST}.0-0"
    assert VERSIONS[0].startswith(OLDEST)
    assert chart.metadata["appVersion"] == __version__


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(rendered: Any, version: str) -> None:
    for one in rendered.objects:
        if one["kind"] in OPERATORS:
            assert one["apiVersion"] == OPERATORS[one["kind"]]
            jsonschema.validate(one["spec"], {"$ref": f"#/{one['kind']}", **SCHEMAS})
        else:
            kubernetes_validate.validate(one, version, strict=True)


def test_names_are_unique_and_labels_are_everywhere(rendered: Any) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered.objects]
    assert len(set(names)) == len(names)
    for one in rendered.objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "ranktower"
        assert labels["app.kubernetes.io/instance"] == "films"
        assert selects(rendered.values["commonLabels"], labels)


def test_whatever_selects_pods_selects_those_it_means(rendered: Any) -> None:
    deployment, service = rendered.one("Deployment"), rendered.one("Service")
    service_pod, *jobs = (pod["metadata"]["labels"] for pod in rendered.pods())
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in rendered.all("PodDisruptionBudget")]
    spread = deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
    selectors += [one["labelSelector"]["matchLabels"] for one in spread]
    policies = [one["spec"]["podSelector"]["matchLabels"] for one in rendered.all("NetworkPolicy")]
    selectors += policies[:1]
    for selector in selectors:
        assert selects(selector, service_pod)
        assert not any(selects(selector, job) for job in jobs)
    for selector in policies[1:]:
        assert not selects(selector, service_pod)
        assert all(selects(selector, job) for job in jobs)
    for monitor in rendered.all("ServiceMonitor"):
        assert selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    for scaler in rendered.all("HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        assert "replicas" not in deployment["spec"]


def test_ports_lead_to_the_container(rendered: Any) -> None:
    (port,) = rendered.container()["ports"]
    assert port == {"name": "http", "containerPort": 8000}
    (exposed,) = rendered.one("Service")["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert rendered.container()[probe]["httpGet"]["port"] == port["name"]
    for monitor in rendered.all("ServiceMonitor"):
        assert [one["port"] for one in monitor["spec"]["endpoints"]] == [exposed["name"]]
    for policy in rendered.all("NetworkPolicy")[:1]:
        assert [one["port"] for one in policy["spec"]["ingress"][0]["ports"]] == [port["name"]]
    for ingress in rendered.all("Ingress"):
        paths = ingress["spec"]["rules"][0]["http"]["paths"]
        assert {path["backend"]["service"]["port"]["name"] for path in paths} == {exposed["name"]}
    for route in rendered.all("HTTPRoute"):
        assert route["spec"]["rules"][0]["backendRefs"][0]["port"] == exposed["port"]


def test_the_network_policies_let_out_what_is_asked_for(everything: Any) -> None:
    service, jobs = (
        {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        for policy in everything.all("NetworkPolicy")
    )
    variables = {one["name"]: one["value"] for one in everything.container()["env"]}
    redis = urlsplit(variables["RANKTOWER_STORE__REDIS_URL"]).port
    collector = urlsplit(variables["OTEL_EXPORTER_OTLP_ENDPOINT"]).port
    assert service == {53, redis, collector, 2049}
    assert jobs == {53, redis, 2049}


@pytest.mark.parametrize(
    ("url", "endpoint", "given", "ports"),
    [
        ("rediss://h:6380/0", "http://col:14318", {}, {6380, 14318}),
        ("redis://reader@h/0?a=b:1", "https://col/v1", {}, {6379, 443}),
        ("redis://h:7000", "http://col", {"redis": {"port": 6379}, "otlp": {"port": 4318}}, {6379, 4318}),
    ],
)
def test_ports_that_are_let_out_are_those_of_the_urls(
    render: Any, url: str, endpoint: str, given: dict[str, Any], ports: set[int]
) -> None:
    """Unless the pods behind them have others."""
    values = {
        "config": {"store": {"users": "redis"}},
        "redis": {"url": url},
        "tracing": {"endpoint": endpoint},
        "networkPolicy": {"enabled": True, **given},
    }
    egress = render(values).one("NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == ports | {53}


def test_a_read_only_claim_is_mounted_as_one(render: Any) -> None:
    values = {"registry": {"existingClaim": "releases", "readOnly": True}}
    volumes = render(values).one("Deployment")["spec"]["template"]["spec"]["volumes"]
    claim = {"claimName": "releases", "readOnly": True}
    assert {"name": "registry", "persistentVolumeClaim": claim} in volumes


def test_no_pod_may_do_more_than_it_must(rendered: Any) -> None:
    for pod in rendered.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        security = spec["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        name = container["image"].rpartition("/")[2]
        assert "@sha256:" in name or (":" in name and not name.endswith(":latest"))
    image = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "USER 10001:10001" in image


def test_every_mount_has_its_volume_and_every_volume_its_mount(rendered: Any) -> None:
    for pod in rendered.pods():
        (container,) = pod["spec"]["containers"]
        mounts = [one["name"] for one in container["volumeMounts"]]
        assert sorted(mounts) == sorted(one["name"] for one in pod["spec"]["volumes"])
    claims = {one["metadata"]["name"] for one in rendered.all("PersistentVolumeClaim")}
    values = rendered.values
    given = {values["registry"]["existingClaim"], values["offline"]["data"]["existingClaim"]}
    volumes = [volume for pod in rendered.pods() for volume in pod["spec"]["volumes"]]
    used = {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}
    assert used - given == claims


def test_a_pod_may_take_as_long_to_stop_as_the_service_does(rendered: Any) -> None:
    drain = rendered.values["drain"]
    grace = rendered.one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == drain["delaySeconds"] + drain["timeoutSeconds"] + 5
    readiness = rendered.container()["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= drain["delaySeconds"]


def test_what_was_released_outlives_the_chart(everything: Any) -> None:
    for claim in everything.all("PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_new_settings_make_new_pods(render: Any) -> None:
    def checksum(values: dict[str, Any]) -> str:
        annotations = render(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum({}) == checksum({"replicas": 7})
    assert checksum({}) != checksum({"config": {"log": {"level": "debug"}}})


def test_rules_and_dashboard_are_those_of_the_repository(everything: Any, chart: helm.Chart, tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    assert everything.one("PrometheusRule")["spec"] == rules
    dashboard = next(one for one in everything.all("ConfigMap") if one["metadata"]["name"].endswith("-dashboard"))
    text = (ROOT / "deploy/grafana/dashboards/ranktower.json").read_text(encoding="utf-8")
    assert json.loads(dashboard["data"]["ranktower.json"]) == json.loads(text)
    assert everything.one("ServiceMonitor")["spec"]["jobLabel"] in everything.one("Service")["metadata"]["labels"]
    # An archive has no links out of it.
    with tarfile.open(helm.package(CHART, destination=tmp_path)) as archive:
        assert archive.getmember("ranktower/files/alerts.yml").isreg()
