"""The collector's configuration, as far as it can be held without a collector: what it names it defines, and the ports
and names are those of the compose file and of the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
# Of the collector's own components, what each may be given here: a misspelt key stops a collector at its start.
KNOWN = {
    "otlp": {"protocols"},
    "memory_limiter": {"check_interval", "limit_percentage", "spike_limit_percentage"},
    "batch": {"timeout", "send_batch_size", "send_batch_max_size"},
    "otlp/jaeger": {"endpoint", "tls"},
    "health_check": {"endpoint"},
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "deploy/otel/collector.yaml").read_text(encoding="utf-8"))
    return content


def test_every_pipeline_names_what_is_defined_and_all_that_is_defined_is_used(config: dict[str, Any]) -> None:
    service = config["service"]
    for kind in ("receivers", "processors", "exporters"):
        named = [name for pipeline in service["pipelines"].values() for name in pipeline[kind]]
        assert set(named) == set(config[kind])
    assert set(service["extensions"]) == set(config["extensions"])
    assert set(config) == {"receivers", "processors", "exporters", "extensions", "service"}


def test_every_component_has_only_keys_that_it_knows(config: dict[str, Any]) -> None:
    for kind in ("receivers", "processors", "exporters", "extensions"):
        for name, settings in config[kind].items():
            assert set(settings) <= KNOWN[name]


def test_memory_is_limited_before_anything_is_batched(config: dict[str, Any]) -> None:
    assert config["service"]["pipelines"]["traces"]["processors"] == ["memory_limiter", "batch"]
    limiter = config["processors"]["memory_limiter"]
    assert limiter["spike_limit_percentage"] < limiter["limit_percentage"] < 100
    batch = config["processors"]["batch"]
    assert batch["send_batch_size"] <= batch["send_batch_max_size"]


def test_it_listens_where_the_service_sends_and_sends_where_jaeger_listens(config: dict[str, Any]) -> None:
    protocols = config["receivers"]["otlp"]["protocols"]
    assert protocols == {"grpc": {"endpoint": "0.0.0.0:4317"}, "http": {"endpoint": "0.0.0.0:4318"}}
    assert config["exporters"]["otlp/jaeger"]["endpoint"] == "jaeger:4317"
    assert config["extensions"]["health_check"]["endpoint"] == "0.0.0.0:13133"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert {services[name]["profiles"][0] for name in ("collector", "jaeger")} == {"tracing"}
    assert any("deploy/otel" in volume for volume in services["collector"]["volumes"])
    assert services["collector"]["mem_limit"], "the limiter's percentages are of the container's memory"
