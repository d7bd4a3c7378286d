"""What the whole stack does where no route is to blame: faults, imports, and headers of every answer."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app, create_server
from service.routes import score
from service.settings import Settings


def settings(tmp_path: Path, **sections: Any) -> Settings:
    return Settings.model_validate({"release": {"registry": str(tmp_path), "model": "m"}} | sections)


async def test_a_fault_is_a_500_without_a_word_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(body: bytes, settings: Settings) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(score, "parse_score", fail)
    transport = httpx.ASGITransport(create_server(settings(tmp_path)), raise_app_exceptions=False)
    with caplog.at_level(logging.DEBUG):
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/score", json={}, headers={"x-request-id": "r-1"})
            metrics = (await client.get("/metrics")).text
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.json() == {
        "error": "internal error; the log has more under this request_id",
        "error_type": "internal_error",
        "request_id": "r-1",
    }
    assert 'ranktower_request_duration_seconds_count{endpoint="score",outcome="internal_error"} 1.0' in metrics
    assert any(record.levelname == "ERROR" and record.fields["request_id"] == "r-1" for record in caplog.records)


def test_faults_neither_flood_the_log_nor_cost_the_connection(
    release: Any, start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python imports this before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        "from service.routes import explain, score\n"
        "def fail(body, settings):\n"
        "    raise RuntimeError('secret of the inside')\n"
        "score.parse_score = explain.parse_explain = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = start_server(release.folder.parent.parent, LOG__MAX_LINES_PER_S="1")
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=30)) as connection:
        connection.connect()
        connection.auto_open = False  # another connection would be an error
        for path in ("/v1/score", "/v1/explain") * 50:  # round the framework, and through it
            connection.request("POST", path, b"{}")
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["error_type"]) == (500, "internal_error")
    assert server.stop() == 0
    failed = [line for line in server.lines() if "exception" in line]
    assert [line["message"] for line in failed] == ["internal error"]
    assert failed[0]["traceback"][-1] == f"{tmp_path}/sitecustomize.py:3 fail"
    assert sum(line["logger"] == "service.request_log" for line in server.lines()) < 20
    assert "secret" not in server.log.read_text()


def test_the_service_imports_no_training_library_and_reads_nothing_at_import() -> None:
    program = (
        "import sys, os\n"
        "os.environ['RANKTOWER_HTTP__PORT'] = 'no number'\n"
        "sys.argv = ['x', '--no-such-option']\n"
        "import service.serve, service.app, service.openapi\n"
        "print(sorted({'torch', 'polars', 'tqdm', 'matplotlib', 'onnx', 'safetensors'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_two_applications_live_in_one_process(tmp_path: Path) -> None:
    first, second = (create_app(settings(tmp_path)) for _ in range(2))
    first.state.service.metrics.count_shed("no_time", 0.0)
    counted = b'ranktower_shed_total{endpoint="score",priority="normal",reason="no_time"} 1.0'
    assert counted in first.state.service.metrics.render()
    assert counted not in second.state.service.metrics.render()


def test_an_answer_does_not_say_what_serves_it(server: Any) -> None:
    assert "server" not in server.client.get("/livez").headers
