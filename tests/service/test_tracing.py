"""Traces of a real server, read off the bytes of the protocol, by collectors that take them, hang, or are not there."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.tracing import Tracing

PAGE = Path(__file__).parents[2] / "docs/tracing-and-logs.md"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CALLER = "0af7651916cd43dd8448eb211c80319c"
CALLERS_SPAN = "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{CALLER}-{CALLERS_SPAN}-01", f"00-{'1' * 32}-{CALLERS_SPAN}-00"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.agents: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Any]:
        """All so far, each with its resource's attributes as ``resource``."""
        found = []
        for body in list(self.bodies):
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes(of_resource.resource)
                for of_scope in of_resource.scope_spans:
                    found += [SimpleNamespace(span=span, resource=resource) for span in of_scope.spans]
        return found


def attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.fixture
def traced_server(
    release: Any, start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """``traced_server(url, *options, OTEL_...=...)``; the server inherits the variables."""
    servers = []

    def start(url: str, *options: str, settings: dict[str, str] | None = None, **variables: str) -> Any:
        for name, value in {ENDPOINT: url, "OTEL_BSP_SCHEDULE_DELAY": "100", **variables}.items():
            monkeypatch.setenv(name, value)
        server = start_server(release.folder.parent.parent, *options, **(settings or {}))
        servers.append(server)
        server.wait_ready(release.release)
        return server

    yield start
    for server in servers:
        server.stop()


def trees(collector: Collector) -> list[tuple[Any, list[Any]]]:
    """Each SERVER span with its children, in the order of their beginnings."""
    spans = [one.span for one in collector.spans()]
    roots = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    by_parent = {root.span_id: [one for one in spans if one.parent_span_id == root.span_id] for root in roots}
    assert len(spans) == len(roots) + sum(map(len, by_parent.values()))
    return [(root, sorted(by_parent[root.span_id], key=lambda one: one.start_time_unix_nano)) for root in roots]


def test_a_sampled_callers_trace_goes_on_through_the_stages(
    collector: Collector, traced_server: Callable[..., Any], release: Any
) -> None:
    server = traced_server(collector.url, OTEL_TRACES_SAMPLER="parentbased_always_off")
    before_ns = time.time_ns()
    answer = server.client.post(
        "/v1/score",
        json={"user_id": "user-1", "candidate_ids": [1, 2, "no such item"], "budget_ms": 5000},
        headers={"traceparent": SAMPLED, "tracestate": "vendor=1"},
    ).json()
    after_ns = time.time_ns()
    assert server.stop() == 0
    ((root, children),) = trees(collector)
    described = set(re.findall(r"`((?:http|ranktower)\.[a-z_.]+)`", PAGE.read_text(encoding="utf-8")))
    assert described == attributes(root).keys() | {"ranktower.degraded_reason"}
    assert root.trace_id.hex() == CALLER
    assert root.parent_span_id.hex() == CALLERS_SPAN
    assert root.trace_state == "vendor=1"
    assert root.name == "POST /v1/score"
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/score",
        "http.response.status_code": 200,
        "ranktower.request_id": answer["request_id"],
        "ranktower.outcome": "ok",
        "ranktower.release": release.release,
        "ranktower.level": "full",
        "ranktower.user": "PRESENT",
        "ranktower.num_candidates": 3,
        "ranktower.num_missing": 1,
        "ranktower.budget_ms": pytest.approx(5000),
    }
    assert [child.name for child in children] == ["queue", "parse", "queue", "fetch", "score", "serialize"]
    assert {child.trace_id.hex() for child in children} == {CALLER}
    # They nest in the request, one after the other, and the request's time is the clock's.
    times = [root.start_time_unix_nano]
    for child in children:
        times += [child.start_time_unix_nano, child.end_time_unix_nano]
    times.append(root.end_time_unix_nano)
    assert times == sorted(times)
    assert before_ns - 1_000_000 <= times[0]
    assert times[-1] <= after_ns + 1_000_000
    assert (root.end_time_unix_nano - root.start_time_unix_nano) / 1e6 >= answer["took_ms"]


def test_every_worker_sends_and_only_what_is_sampled(collector: Collector, traced_server: Callable[..., Any]) -> None:
    server = traced_server(collector.url, "--workers", "2", OTEL_TRACES_SAMPLER="parentbased_always_off")

    def ask(parent: str | None) -> None:
        # A connection of its own, so that either worker may take it.
        headers = {"connection": "close"} | ({"traceparent": parent} if parent else {})
        server.client.post("/v1/score", json={"user_id": "user-1", "candidate_ids": [1]}, headers=headers)

    def workers() -> set[str]:
        ask(SAMPLED)
        return {one.resource["service.instance.id"] for one in collector.spans()}

    ask(NOT_SAMPLED)
    ask(None)
    ask("00-no-parent-01")
    server.wait_until(lambda: len(workers()) == 2, "traced by both workers")
    assert server.stop() == 0
    assert {one.span.trace_id.hex() for one in collector.spans()} == {CALLER}
    assert {one.resource["service.name"] for one in collector.spans()} == {"ranktower"}


def test_failures_and_refusals_say_so(collector: Collector, traced_server: Callable[..., Any]) -> None:
    server = traced_server(collector.url, OTEL_SERVICE_NAME="shop", OTEL_RESOURCE_ATTRIBUTES="deployment=blue")
    server.score("user-1", [1.5])
    server.score("user-1", [1], budget_ms=0.31)
    server.client.post("/v1/explain", json={"user_id": "user-1", "candidate_ids": [1]})
    server.client.get("/livez")
    assert server.stop() == 0
    found = {attributes(root)["ranktower.outcome"]: (root, children) for root, children in trees(collector)}
    assert found.keys() == {"malformed", "deadline_exceeded", "ok"}
    refused, stages = found["malformed"]
    assert attributes(refused)["http.response.status_code"] == 422
    assert refused.status.code == refused.status.STATUS_CODE_UNSET
    assert [stage.name for stage in stages] == ["queue", "parse"]
    late, _ = found["deadline_exceeded"]
    assert attributes(late)["error.type"] == "deadline_exceeded"
    assert late.status.code == late.status.STATUS_CODE_ERROR
    assert found["ok"][0].name == "POST /v1/explain"
    resource = collector.spans()[0].resource
    assert (resource["service.name"], resource["deployment"]) == ("shop", "blue")


def test_a_span_has_the_route_and_not_the_path(
    collector: Collector, traced_server: Callable[..., Any], release: Any
) -> None:
    key = {"x-api-key": "correct-horse-battery"}
    server = traced_server(collector.url, settings={"AUTH__API_KEY": key["x-api-key"]})
    for path in ("demo", "other", f"demo/versions/{release.release}"):
        for headers in (key, {}):  # served or not, let in or not
            server.client.post(f"/v2/models/{path}/infer", json={}, headers=headers)
    assert server.stop() == 0
    roots = [root for root, _ in trees(collector)]
    routes = ["/v2/models/{model}/infer"] * 4 + ["/v2/models/{model}/versions/{version}/infer"] * 2
    assert sorted(attributes(root)["http.route"] for root in roots) == routes
    assert {root.name for root in roots} == {f"POST {route}" for route in routes}


def test_a_queue_of_fewer_spans_than_a_batch_is_sent(collector: Collector, traced_server: Callable[..., Any]) -> None:
    server = traced_server(collector.url, OTEL_BSP_MAX_QUEUE_SIZE="100")
    server.score("user-1", [1])
    assert server.stop() == 0
    assert len(trees(collector)) == 1


def test_the_rows_fetched_from_redis_are_a_span_of_their_own(
    collector: Collector, traced_server: Callable[..., Any], release: Any, redis_server: Any
) -> None:
    release.write_to_redis(redis_server.url)
    settings = {"STORE__USERS": "redis", "STORE__REDIS_URL": redis_server.url}
    server = traced_server(collector.url, settings=settings)
    server.score("user-1", [1, 2])
    server.client.post("/v1/rank", json={"user_id": "user-1", "num_candidates": 5})
    assert server.stop() == 0
    names = {root.name: [child.name for child in children] for root, children in trees(collector)}
    assert names["POST /v1/score"] == ["queue", "parse", "queue", "fetch", "queue", "score", "serialize"]
    assert names["POST /v1/rank"] == [
        "queue", "parse", "queue", "queue", "fetch", "queue", "score", "serialize"
    ]  # fmt: skip


@contextmanager
def silent_collector() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def no_collector() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else can have the port, and nobody listens on it
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("unavailable", [silent_collector, no_collector])
def test_without_a_collector_requests_are_answered_and_the_service_stops(
    unavailable: Callable[[], Any], traced_server: Callable[..., Any]
) -> None:
    with unavailable() as url:
        # Room for few spans, all of them waiting for the collector after the first requests.
        limits = {"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
        server = traced_server(url, **limits)
        statuses = {server.score("user-1", [1, 2]).status_code for _ in range(300)}
        assert statuses == {200}
        assert server.stop() == 0  # within the fixture's 20 s; the provider's own 30 s would not be
    of_exporter = [line for line in server.lines() if line["logger"].startswith("opentelemetry.")]
    assert 1 <= len(of_exporter) <= 10, "once a minute each"


def test_nothing_is_traced_a_second_time(collector: Collector, traced_server: Callable[..., Any]) -> None:
    """FastAPI and the Redis client can instrument themselves, with the same variables."""
    server = traced_server(collector.url, FASTAPI_OTEL_AUTO_CONFIGURE="true")
    server.client.get("/v1/release")
    server.client.get("/readyz")
    assert server.stop() == 0
    assert [one.span.name for one in collector.spans()] == ["GET /v1/release"]


def test_no_body_key_or_id_is_in_a_span(collector: Collector, traced_server: Callable[..., Any]) -> None:
    key = "canary-of-the-key-0123456789"
    server = traced_server(collector.url, settings={"AUTH__API_KEY": key})
    headers = {"x-api-key": key, "user-agent": "canary-agent", "cookie": "a=canary-cookie", "x-other": "canary-other"}
    body = {"user_id": "canary-user", "candidate_ids": ["canary-item"], "user_features": {"country": "canary-country"}}
    for path in ("/v1/score", "/v1/rank", "/v1/explain"):
        assert server.client.post(f"{path}?q=canary-query", json=body, headers=headers).status_code == 200
        server.client.post(path, json={**body, "canary-field": 1}, headers=headers)
    server.client.post("/v1/score", json=body, headers={"x-api-key": "canary-wrong"})
    server.client.post("/v2/models/canary-model/infer", json=body, headers=headers)
    assert server.stop() == 0
    assert len(trees(collector)) == 8
    assert b"canary" not in b"".join(collector.bodies)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority belongs to a whole process")
async def test_the_thread_that_sends_has_the_lowest_priority(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, collector.url)
    before, tracing = set(threading.enumerate()), Tracing()
    await tracing.start()
    (sender,) = {one for one in threading.enumerate() if "Otel" in one.name} - before
    assert os.getpriority(os.PRIO_PROCESS, sender.native_id or 0) == 19
    tracing.stop()
    assert not sender.is_alive()


def test_the_log_names_the_trace_of_a_request(collector: Collector, traced_server: Callable[..., Any]) -> None:
    server = traced_server(collector.url, settings={"LOG__SAMPLE": "1"})
    server.client.post("/v1/score", json={"user_id": 1, "candidate_ids": [1]}, headers={"traceparent": SAMPLED})
    server.score(1, [1])
    assert server.stop() == 0
    logged = [line["trace_id"] for line in server.lines() if line["logger"] == "service.request_log"]
    assert logged[0] == CALLER
    assert set(logged) == {root.trace_id.hex() for root, _ in trees(collector)}
    assert len(logged) == 2
