"""The endpoints that are reached without the framework's routing answer as they do through it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app, create_server, endpoint_of
from service.context import ContextMiddleware
from service.direct import DirectRoutes
from service.routes import rank, score
from service.security_headers import SecurityHeaders
from service.settings import Settings

GOOD = {"user_id": "user-1", "candidate_ids": [5, "17", "nowhere", 250]}
INFER = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["user-1"]},
        {"name": "candidate_ids", "shape": [2], "datatype": "INT64", "data": [5, 17]},
    ],
}
REQUESTS: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("POST", "/v1/score", json.dumps(GOOD).encode(), {}),
    ("POST", "/v1/score?verbose=1", json.dumps(GOOD).encode(), {}),
    ("POST", "/v1/%73core", json.dumps(GOOD).encode(), {}),
    ("POST", "/v1/score", json.dumps(GOOD | {"user_features": {"country": "fr"}, "user_id": "new"}).encode(), {}),
    ("POST", "/v1/score", json.dumps(GOOD | {"candidate_ids": []}).encode(), {}),
    ("POST", "/v1/rank", json.dumps(GOOD | {"top_k": 2}).encode(), {}),
    ("POST", "/v1/rank", b'{"user_id": "user-2", "num_candidates": 7}', {}),
    ("POST", "/v2/models/demo/infer", json.dumps(INFER).encode(), {}),
    # Refused by the endpoint.
    ("POST", "/v2/models/demo/infer", json.dumps(INFER | {"outputs": 1}).encode(), {}),
    ("POST", "/v1/score", b"", {}),
    ("POST", "/v1/score", b"{}", {}),
    ("POST", "/v1/rank", b'{"user_id": 1, "top_k": 0}', {}),
    ("POST", "/v1/score", json.dumps(GOOD | {"candidate_ids": list(range(10_001))}).encode(), {}),
    ("POST", "/v1/score", json.dumps(GOOD | {"budget_ms": 0.001}).encode(), {}),
    ("POST", "/v1/rank", json.dumps(GOOD).encode(), {"content-encoding": "gzip"}),
    ("POST", "/v1/score", b" " * 5_000_000, {}),
    # Not exactly this method and path.
    ("POST", "/v2/models/other/infer", json.dumps(INFER).encode(), {}),
    ("POST", "/v2/models/demo/versions/1/infer", json.dumps(INFER).encode(), {}),
    ("POST", "/v2/models/%64emo/infer", json.dumps(INFER).encode(), {}),
    ("GET", "/v1/score", b"", {}),
    ("HEAD", "/v1/rank", b"", {}),
    ("OPTIONS", "/v1/score", b"", {}),
    ("PUT", "/v1/rank", json.dumps(GOOD).encode(), {}),
    ("POST", "/v1/score/", json.dumps(GOOD).encode(), {}),
    ("POST", "//v1/score", json.dumps(GOOD).encode(), {}),
    ("POST", "/V1/SCORE", json.dumps(GOOD).encode(), {}),
    ("POST", "/v1", b"{}", {}),
    ("GET", "/v1/release", b"", {}),
    ("GET", "/readyz", b"", {}),
]


def settings(root: Path, model: str = "demo") -> Settings:
    return Settings.model_validate({"release": {"registry": str(root), "model": model, "poll_ms": 50}})


def without_direct_routes(chosen: Settings) -> ASGIApp:
    app = create_app(chosen)
    return ContextMiddleware(SecurityHeaders(app), app.state.service.metrics, endpoint_of)


@asynccontextmanager
async def living(stack: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the stack, started and stopped as a server does it."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(
        _as_task(stack({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, received.get, sent.put))
    )
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(stack, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        await received.put({"type": "lifespan.shutdown"})
        await task


async def _as_task(running: Awaitable[None]) -> None:
    await running


async def ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.02)


async def found_nothing(client: httpx.AsyncClient) -> None:
    """Wait until the service has looked for a release and there is none; before it says that it is loading."""
    async with asyncio.timeout(30):
        while (await client.get("/readyz")).json()["error_type"] != "no_release":
            await asyncio.sleep(0.02)


async def answer(client: httpx.AsyncClient, method: str, path: str, content: bytes, headers: dict[str, str]) -> Any:
    """All of an answer that does not tell the time."""
    headers = headers | {"x-request-id": "r-1"}
    response = await client.request(method, path, content=content, headers=headers)
    kept = {name: value for name, value in response.headers.items() if name != "content-length"}
    try:
        body = response.json()
        body.pop("took_ms", None)
        body.get("parameters", {}).pop("took_ms", None)
    except ValueError:
        body = response.text
    return response.status_code, kept, body


async def test_each_request_is_answered_as_through_the_framework(release: Any) -> None:
    chosen = settings(release.folder.parent.parent)
    async with living(create_server(chosen)) as direct, living(without_direct_routes(chosen)) as framework:
        await ready(direct)
        await ready(framework)
        statuses = set()
        for request in REQUESTS:
            expected = await answer(framework, *request)
            assert await answer(direct, *request) == expected, request[:2]
            statuses.add(expected[0])
        assert statuses == {200, 404, 405, 413, 415, 422, 504}
        scores = (await direct.post("/v1/score", json=GOOD)).json()["scores"]
    np.testing.assert_allclose(scores[:2] + scores[3:], release.scores("user-1", [5, 17, 250]), atol=4e-5)


async def test_without_a_release_both_say_so(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    async with living(create_server(chosen)) as direct, living(without_direct_routes(chosen)) as framework:
        await found_nothing(direct)
        await found_nothing(framework)
        for path in ("/v1/score", "/v1/rank"):
            request = ("POST", path, json.dumps(GOOD).encode(), {})
            expected = await answer(framework, *request)
            assert await answer(direct, *request) == expected
            assert expected[0] == 503


@pytest.mark.parametrize(
    ("module", "parse", "path"), [(score, "parse_score", "/v1/score"), (rank, "parse_rank", "/v1/rank")]
)
async def test_a_fault_is_answered_alike_by_both(
    module: Any, parse: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(body: bytes, settings: Settings) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(module, parse, fail)
    chosen = settings(tmp_path)
    async with living(create_server(chosen)) as direct, living(without_direct_routes(chosen)) as framework:
        expected = await answer(framework, "POST", path, b"{}", {})
        assert await answer(direct, "POST", path, b"{}", {}) == expected
        assert (expected[0], expected[2]["error_type"]) == (500, "internal_error")
        assert "secret" not in str(expected)


async def echo(request: Request) -> Response:
    assert isinstance(request.app, FastAPI)
    return PlainTextResponse(await request.body())


class Noting(FastAPI):
    """An application that only notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_on: list[tuple[str, str | None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed_on.append((scope["type"], scope.get("path")))


async def test_only_what_is_not_known_reaches_the_framework() -> None:
    app = Noting()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"hello"}

    def scope(kind: str, method: str, path: str) -> Scope:
        return {"type": kind, "method": method, "path": path, "headers": [], "query_string": b""}

    stack = DirectRoutes(app, {("POST", "/echo"): echo})
    await stack(scope("http", "POST", "/echo"), receive, send)
    assert app.passed_on == []
    assert [message.get("body", b"") for message in sent] == [b"", b"hello"]
    await stack(scope("http", "GET", "/echo"), receive, send)
    await stack(scope("http", "POST", "/echo/"), receive, send)
    await stack({"type": "websocket", "path": "/echo", "headers": []}, receive, send)
    await stack({"type": "lifespan"}, receive, send)
    assert app.passed_on == [("http", "/echo"), ("http", "/echo/"), ("websocket", "/echo"), ("lifespan", None)]
    assert len(sent) == 2


async def test_the_outcome_is_counted_alike(release: Any) -> None:
    chosen = settings(release.folder.parent.parent)

    def counted(metrics: str) -> list[str]:
        return sorted(
            line for line in metrics.splitlines() if line.startswith("ranktower_request_duration_seconds_count")
        )

    found = []
    make: Callable[[Settings], ASGIApp]
    for make in (create_server, without_direct_routes):
        async with living(make(chosen)) as client:
            await ready(client)
            for request in REQUESTS:
                await answer(client, *request)
            found.append(counted((await client.get("/metrics")).text))
    assert found[0] == found[1]
    assert len(found[0]) > 5
