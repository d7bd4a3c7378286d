"""Which of the ``OTEL_*`` variables ask for traces, and which cannot be had."""

from __future__ import annotations

import re
import sys

import pytest

from ranktower.errors import ConfigError
from service.tracing import tracing_is_asked_for

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
        {ENDPOINT: ""},
        {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "TRUE"},
        {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"},
    ],
)
def test_nobody_asks_for_traces(environment: dict[str, str]) -> None:
    assert not tracing_is_asked_for(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {ENDPOINT: "http://c"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"},
        {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {
            ENDPOINT: "http://c",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        },
    ],
)
def test_somebody_asks_for_traces(environment: dict[str, str]) -> None:
    assert tracing_is_asked_for(environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
    ],
)
def test_what_cannot_be_had_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value!r}")):
        tracing_is_asked_for({ENDPOINT: "http://c", name: value})


def test_a_batch_that_the_queue_cannot_hold_is_named_with_both() -> None:
    sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "101"}
    text = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=101: must be at most OTEL_BSP_MAX_QUEUE_SIZE, which is 100"
    with pytest.raises(ConfigError, match=text):
        tracing_is_asked_for({ENDPOINT: "http://c", **sizes})


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'ranktower[tracing]'")):
        tracing_is_asked_for({ENDPOINT: "http://c"})
