"""Which services the benchmark of traces compares, and how their figures become ratios."""

from __future__ import annotations

from pathlib import Path

import tracing


def test_the_first_service_has_no_collector_and_the_earlier_checkout_neither() -> None:
    found = tracing.environments("http://c", Path("before"))
    assert list(found) == ["off", "before", *tracing.RATIOS]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in found["off"] | found["before"]
    assert found["before"]["PYTHONPATH"] == str(Path.cwd() / "before")
    assert found["every 100th request"]["OTEL_TRACES_SAMPLER_ARG"] == "0.01"
    assert "before" not in tracing.environments("http://c", None)


def test_ratios_are_taken_within_a_round() -> None:
    # A machine that is twice as slow in the second round: the ratios stay.
    rounds = [{"off": {"cpu_us": 100.0 * slow}, "every request": {"cpu_us": 110.0 * slow}} for slow in (1.0, 2.0, 1.0)]
    found = tracing.summary(rounds)
    assert found["services"] == {"off": {"cpu_us": 100.0}, "every request": {"cpu_us": 110.0}}
    assert found["ratios"] == {"every request": {"cpu_us": 1.1}}
