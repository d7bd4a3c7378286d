"""OpenTelemetry traces, where the standard ``OTEL_*`` variables ask for them: a span of each request and its stages.

Nothing is traced while a request is served. Its spans are made from the times of its stages when the answer has been
written, sent in batches by a thread of the lowest priority, and dropped where no collector takes them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ranktower import __version__
from ranktower.errors import ConfigError
from service.background import run_beside

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span

    from service.context import RequestContext, Served

_FLUSH_S = 3.0
_QUEUE_SIZE, _BATCH_SIZE = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def tracing_is_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether the ``OTEL_*`` variables ask for traces.

    Raises:
        ConfigError: for traces that cannot be had: of another exporter or protocol, in batches larger than the queue,
            or without the packages.
    """
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or exporter == "none" or not any(environment.get(name) for name in names):
        return False
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={exporter!r}: must be otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(name):
            if protocol != "http/protobuf":
                raise ConfigError(f"{name}={protocol!r}: must be http/protobuf, usually port 4318 of a collector")
            break
    _queue_and_batch(environment)
    if not all(map(_can_be_imported, _PACKAGES)):
        raise ConfigError("OTEL_EXPORTER_OTLP_ENDPOINT: tracing needs more packages: pip install 'ranktower[tracing]'")
    return True


def _queue_and_batch(environment: Mapping[str, str]) -> tuple[int, int]:
    """Spans that may wait, and spans of a batch: by default 512, or as many as may wait."""
    sizes: dict[str, int] = {}
    for name, default in ((_QUEUE_SIZE, 2048), (_BATCH_SIZE, 512)):
        given = environment.get(name, "").strip()
        if given and not (given.isascii() and given.isdigit() and int(given) > 0):
            raise ConfigError(f"{name}={given!r}: must be a whole number above 0")
        sizes[name] = int(given) if given else min([default, *sizes.values()])
    queue, batch = sizes.values()
    if batch > queue:
        raise ConfigError(f"{_BATCH_SIZE}={batch}: must be at most {_QUEUE_SIZE}, which is {queue}")
    return queue, batch


def _can_be_imported(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


class Tracing:
    """The traces of one process, between ``start`` and ``stop``."""

    async def start(self) -> None:
        """Before the first request. A thread is started that sends: the process is not forked after this."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._sdk = sdk
        self._propagator = TraceContextTextMapPropagator()
        self._provider = sdk.TracerProvider(resource=_resource(), shutdown_on_exit=False)
        # Its thread inherits the lowest priority of the one that starts it.
        queue, batch = _queue_and_batch(os.environ)
        make = partial(BatchSpanProcessor, max_queue_size=queue, max_export_batch_size=batch)
        self._processor = await run_beside(make, OTLPSpanExporter())
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("ranktower", __version__)

    def observe(self, served: Served) -> None:
        """Make the spans of a request whose answer has been written, where its trace is sampled."""
        context, trace = served.context, self._trace
        # One offset for all: times that nest and follow each other on the one clock do so on the other.
        offset_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        root = self._tracer.start_span(
            f"{served.method} {served.endpoint.route}",
            self._callers(context),
            trace.SpanKind.SERVER,
            start_time=offset_ns + int(context.arrival * 1e9),
        )
        if not isinstance(root, self._sdk.Span):
            return
        context.trace_id = trace.format_trace_id(root.get_span_context().trace_id)
        for stage, start, end in context.stages:
            self._add_stage(root, stage, offset_ns + int(start * 1e9), offset_ns + int(end * 1e9))
        root.set_attributes(_attributes(served))
        if (context.status or 500) >= 500:
            root.set_status(trace.StatusCode.ERROR)
        root.end(offset_ns + int(served.ended * 1e9))

    def _add_stage(self, root: Span, stage: str, start_ns: int, end_ns: int) -> None:
        """As the tracer would, for less: nothing is to be sampled or set any more."""
        parent = root.get_span_context()
        span_id = self._provider.id_generator.generate_span_id()
        span = self._sdk.ReadableSpan(
            stage,
            self._trace.SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state),
            parent,
            root.resource,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=root.instrumentation_scope,
        )
        self._processor.on_end(span)

    def _callers(self, context: RequestContext) -> Context:
        headers = {name: [context.header(name.encode())] for name in ("traceparent", "tracestate")}
        return self._propagator.extract({name: value for name, value in headers.items() if value != [""]})

    def stop(self) -> None:
        """Send what has not been sent yet, for a few seconds at most."""
        # On its own the provider waits for 30 s for a collector that does not answer.
        flushing = threading.Thread(target=self._provider.shutdown, name="flush traces", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)


def _resource() -> Resource:
    """What the service is called; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` win."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = Resource.create({"service.name": "ranktower", "service.version": __version__})
    return ours.merge(OTELResourceDetector().detect())


def _attributes(served: Served) -> dict[str, str | int | float]:
    """Nothing of the body, no key, and no id of a user or an item."""
    context = served.context
    found: dict[str, str | int | float | None] = {
        "http.request.method": served.method,
        "http.route": served.endpoint.route,
        "http.response.status_code": context.status,
        "error.type": context.outcome if (context.status or 500) >= 500 else None,
        "ranktower.request_id": context.request_id,
        "ranktower.outcome": context.outcome,
        "ranktower.release": context.release,
        "ranktower.level": context.level,
        "ranktower.degraded_reason": context.degraded_reason,
        "ranktower.user": context.user,
        "ranktower.num_candidates": context.num_candidates,
        "ranktower.num_missing": context.num_missing,
        "ranktower.budget_ms": context.budget_s * 1e3 if context.budget_s < math.inf else None,
    }
    return {name: value for name, value in found.items() if value is not None}
